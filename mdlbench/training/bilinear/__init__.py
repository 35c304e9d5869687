"""Training of bilinear image classifiers: the same folders, logs and resuming as for SAEs."""
