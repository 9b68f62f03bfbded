"""Benchmarks: training, translation and start-up speed, each figure with its unit."""
