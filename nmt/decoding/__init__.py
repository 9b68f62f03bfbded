"""From a model to text: beam search over token ids, and the translator around it."""
