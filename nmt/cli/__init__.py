"""`nmt VERB ...`: argument parsing and printing; the work is done in the rooms below."""
