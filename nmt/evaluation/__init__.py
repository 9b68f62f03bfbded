"""Evaluation: sacreBLEU scores with signatures and intervals, comparisons and slices."""
