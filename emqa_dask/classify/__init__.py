"""Classifiers and their ensembles: load_ensemble(model directory) gives an Ensemble, every member's word kept."""

from emqa_dask.classify.ensemble import Ensemble, Examined, load_ensemble
from emqa_dask.classify.rows import probability_rows

__all__ = ["Ensemble", "Examined", "load_ensemble", "probability_rows"]
