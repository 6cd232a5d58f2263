"""Tasks that import their 170 MB of libraries on the worker only, not in the driver."""


def make_partition(workspace, partition, packed_rows: bytes, *args, **named) -> dict:
    """Record of `partition_tables.make_tables` on a worker; `packed_rows` come from micrograph_ledger."""
    from emqa_dask.pipeline.tasks import partition_tables
    from emqa_dask.pipeline.workspace.micrograph_ledger import unpack_rows

    return partition_tables.make_tables(workspace, partition, unpack_rows(packed_rows), *args, **named)


def look_at_session(*args, **named) -> dict:
    """Record of `first_look.look_at_session` on a worker."""
    from emqa_dask.pipeline.tasks import first_look

    return first_look.look_at_session(*args, **named)
