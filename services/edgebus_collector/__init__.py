"""Collects what the model got wrong: hard examples, held-out frames, within a budget."""
