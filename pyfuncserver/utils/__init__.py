"""Leaves: logs and the operating system. Nothing here knows what a model is."""
