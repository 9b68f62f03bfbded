"""`nmt VERB ...`: argument parsing and printing; other packages do the work."""
