"""Where two rooms meet: read, call one function of a room, write; run.run() strings the steps together."""

# What workers import while they start, so that the first task does not wait for it.
PRELOAD = ("emqa_dask.pipeline.tasks", "emqa_dask.predict.stored")
