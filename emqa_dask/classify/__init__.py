"""Classifiers and their ensembles: load_ensemble(model directory) gives an Ensemble, every member's word kept."""

from emqa_dask.classify.ensemble import Ensemble, ImageOutputs, load_ensemble
from emqa_dask.classify.rows import make_probability_rows

__all__ = ["Ensemble", "ImageOutputs", "load_ensemble", "make_probability_rows"]
