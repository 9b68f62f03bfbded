"""Jobs on Ray: training, preparing, translating, tuning; the only package that imports ray."""
