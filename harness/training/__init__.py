"""Training: one runner for every arm."""
