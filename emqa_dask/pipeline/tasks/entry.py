"""Tasks that import their 170 MB of libraries on the worker only, not in the driver."""


def make_partition(*args, **named) -> dict:
    """Record of `partition_tables.make_tables` on a worker."""
    from emqa_dask.pipeline.tasks import partition_tables

    return partition_tables.make_tables(*args, **named)


def look_at_session(*args, **named) -> dict:
    """Record of `first_look.look_at_session` on a worker."""
    from emqa_dask.pipeline.tasks import first_look

    return first_look.look_at_session(*args, **named)
