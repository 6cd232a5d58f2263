"""Training of detectors and of classifier ensembles."""
