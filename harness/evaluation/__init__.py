"""Evaluation: every depth, every example, in one pass."""
