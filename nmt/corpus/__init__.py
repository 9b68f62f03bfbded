"""Corpus: from raw text to Arrow shards, without torch."""
