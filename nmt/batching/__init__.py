"""From prepared pairs to the batches of each worker."""
