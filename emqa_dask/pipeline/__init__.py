"""Commands of the driver, tasks of the workers, and the workspace that both use."""

# What workers import while they start, so that the first task does not wait for it.
PRELOAD = ("emqa_dask.pipeline.tasks.partition_tables", "emqa_dask.predict.skops_files")
