"""Checkpoints: self-contained, verified directories for translating and resuming."""
