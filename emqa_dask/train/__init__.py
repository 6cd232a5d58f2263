"""Training: the detectors that other rooms run."""
