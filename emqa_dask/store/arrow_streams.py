"""Tables that processes exchange in files: Arrow streams, one after the other, read once."""

from collections.abc import Sequence

import pyarrow as pa

from emqa_dask.store import files


def write_streams(uri: str, exchanged: Sequence[pa.Table]) -> None:
    """Write the tables `exchanged` into file `uri`."""
    sink = pa.BufferOutputStream()
    for table in exchanged:
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as stream:
            stream.write_table(table)
    files.write_bytes(uri, sink.getvalue().to_pybytes())


def read_streams(uri: str) -> list[pa.Table]:
    """The tables that write_streams() wrote into file `uri`."""
    source = pa.BufferReader(files.read_bytes(uri))
    exchanged = []
    while source.tell() < source.size():
        exchanged.append(pa.ipc.open_stream(source).read_all())
    return exchanged
