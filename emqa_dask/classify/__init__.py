"""Classifiers and their ensembles, with the outputs of every member."""

from emqa_dask.classify.ensemble import Ensemble, ImageOutputs
from emqa_dask.classify.loading import load_ensemble
from emqa_dask.classify.rows import make_probability_rows

__all__ = ["Ensemble", "ImageOutputs", "load_ensemble", "make_probability_rows"]
