"""Estimates of a run: parameters, memory, disk, and time on 1 to 64 nodes."""
