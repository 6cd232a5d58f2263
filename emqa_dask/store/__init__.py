"""What we keep: OME-Zarr stacks, Parquet parts, the layout of a workspace."""
