"""How is a run read from Python? Tables as dask.dataframe, stacks as dask.array, images with their detections."""
