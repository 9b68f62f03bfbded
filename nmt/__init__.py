"""nmt: distributed training of LSTM translation models."""
