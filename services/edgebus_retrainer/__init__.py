"""Retrains models on what the edges collected."""
