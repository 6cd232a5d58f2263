"""The task of a partition, imported where it runs: a driver of many workers does without its 170 MB of libraries."""


def make_partition(*args, **named) -> dict:
    """partition_tables.make_tables() on a worker."""
    from emqa_dask.pipeline.tasks import partition_tables

    return partition_tables.make_tables(*args, **named)
