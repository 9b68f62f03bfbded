"""Training: the update loop, its state, distribution, validation and logs."""
