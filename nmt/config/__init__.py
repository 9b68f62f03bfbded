"""Settings: experiment and cluster files, presets, overrides and explanations."""
