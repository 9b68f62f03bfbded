"""The network: plain numbers in, tensors out."""
