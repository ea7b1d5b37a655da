"""From run folders to tables, statistics and verdicts. Imports no torch, so it runs on any laptop in seconds."""
