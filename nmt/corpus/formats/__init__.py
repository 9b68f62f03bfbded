"""File formats of parallel corpora other than line-parallel text, one module per format."""
