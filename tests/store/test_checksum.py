"""One wrong bit anywhere in a table is noticed; the tables stay Parquet that others read."""

import io

import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from emqa_dask import tables
from emqa_dask.store import checksum, parts

ROWS = [
    {"micrograph_id": f"{i:032x}", "flag": "blur", "value": i / 3, "limit": 0.5, "text": "Blurred."} for i in range(5)
]


def write_streamed(uri):
    with parts.open_table_writer(uri, tables.FLAGS) as write:
        write(ROWS)


def write_whole(uri):
    parts.write_table(uri, ROWS, tables.FLAGS)


@pytest.mark.parametrize("write", [write_streamed, write_whole])
def test_every_flipped_bit_of_a_table_is_noticed(tmp_path, write):
    path = tmp_path / "t.parquet"
    write(str(path))
    whole = path.read_bytes()
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(checksum.ChecksumError):
            checksum.verify_checksum(io.BytesIO(data))
    path.write_bytes(data)
    for read in (parts.load_table, lambda *of: list(parts.iterate_table(*of))):
        with pytest.raises(parts.DamagedTable, match=r"t.parquet is damaged \(.*\): run `emqa triage`"):
            read(str(path), tables.FLAGS)
    with pytest.raises(parts.DamagedTable):
        parts.verify_table(str(path))
    with pytest.raises(parts.DamagedTable):
        parts.count_rows(str(path))


@pytest.mark.parametrize("write", [write_streamed, write_whole])
@pytest.mark.parametrize("length", [0, 3, 11, 40, -1])
def test_a_truncated_table_is_noticed(tmp_path, write, length):
    path = tmp_path / "folder" / "t.parquet"
    write(str(path))
    path.write_bytes(path.read_bytes()[:length])
    assert not parts.has_part(str(tmp_path), "folder", "t", tables.FLAGS)
    with pytest.raises(parts.DamagedTable):
        parts.load_table(str(path), tables.FLAGS)


@pytest.mark.parametrize("write", [write_streamed, write_whole])
def test_other_readers_open_a_table_with_a_checksum(tmp_path, write):
    path = str(tmp_path / "t.parquet")
    write(path)
    expected = pd.DataFrame(ROWS)
    pd.testing.assert_frame_equal(pd.read_parquet(path), expected)
    pd.testing.assert_frame_equal(pa.dataset.dataset(path).to_table().to_pandas(), expected)
    with pq.ParquetFile(path) as found:
        pd.testing.assert_frame_equal(found.read().to_pandas(), expected)
