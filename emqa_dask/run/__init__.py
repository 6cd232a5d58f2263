"""Execution of tasks: Dask clusters, supervision, progress. Nothing here knows about micrographs."""
