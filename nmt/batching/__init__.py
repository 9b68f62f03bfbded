"""Batches: schedule of updates, padding, and background loading for each worker."""
