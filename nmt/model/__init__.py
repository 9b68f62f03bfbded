"""LSTM encoder-decoder models with attention."""
