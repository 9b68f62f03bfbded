"""The two config files: the experiment says what to train, the cluster says where."""
