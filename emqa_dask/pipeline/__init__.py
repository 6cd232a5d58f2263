"""Packages combined: commands run in the driver, tasks on workers, and the workspace keeps the books."""

# What workers import while they start, so that the first task does not wait for it.
PRELOAD = ("emqa_dask.pipeline.tasks.partition_tables", "emqa_dask.predict.skops_files")
