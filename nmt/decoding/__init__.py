"""Decoding: beam search and sampling over token ids, and the translator from text to text."""
