"""Bundles: checkpoint directories that translate, go on training, and are refused when damaged."""
