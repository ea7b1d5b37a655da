"""Execution: cells onto processes. What runs where changes no number."""
