"""Laws of stacks: every micrograph reads back bit for bit, shards are never touched again, others can open them."""

import dataclasses
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import ome_zarr.io
import ome_zarr.reader
import pandas as pd
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from ome_zarr_models.v05 import Image
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

from emqa_dask import tables
from emqa_dask.partition import Partition
from emqa_dask.settings import Store
from emqa_dask.store import layout, marker, micrographs, plan, shards, stacks
from emqa_dask.store.layout import Workspace

NONE = tables.empty(tables.MICROGRAPHS)
DTYPES = ("bool", "uint8", "uint16", ">i2", "<u4", "int64", "float16", ">f4", "float64", "complex64", "complex128")


def noise(shape, dtype, seed):
    raw = np.random.default_rng(seed).integers(0, 256, (*shape[:-1], shape[-1] * np.dtype(dtype).itemsize), np.uint8)
    return (raw & 1).astype(bool) if dtype == "bool" else raw.view(dtype)


def survey(images, prefix="m", nm_per_pixel=0.5):
    """Rows of tables.MICROGRAPHS as a survey of `images` gives them; image i is that of uri `prefix`/i."""
    table = pd.DataFrame(
        {
            "micrograph_id": [f"{prefix}{i}" for i in range(len(images))],
            "uri": [f"{prefix}/{i:03d}" for i in range(len(images))],
            "height_px": [image.shape[0] for image in images],
            "width_px": [image.shape[1] for image in images],
            "dtype": [image.dtype.newbyteorder("=").name for image in images],
            "pixel_sha256": [micrographs.hash_pixels(image) for image in images],
        }
    )
    return tables.conform(table.assign(frame=0, nm_per_pixel=nm_per_pixel), tables.MICROGRAPHS).to_pandas()


def assign(rows, present, store, known):
    """(`rows` with stack, index and partition behind `present`, the lengths of their stacks' shards, all slots)."""
    size = [rows[c] for c in ("height_px", "width_px", "dtype", "nm_per_pixel", "nm_per_pixel_y")]
    rows["stack"] = [layout.name_stack(*of) for of in zip(*size)]
    slots = plan.OccupiedSlots()
    slots.add(present)
    lengths = plan.choose_shard_lengths(Counter(rows["stack"]), known, slots, store)
    return pd.concat(plan.plan_partitions([rows], slots, lengths), ignore_index=True), lengths, slots


def partitions(rows):
    return [partition for partition, _ in plan.split_by_partition(rows)]


def ingest(root, images, present=NONE, store=Store(), prefix="m", nm_per_pixel=0.5, frame=lambda image: image):  # noqa: B008
    """Plan, prepare and write `images`; gives the table of all micrographs."""
    new, lengths, slots = assign(survey(images, prefix, nm_per_pixel), present, store, stacks.read_shard_lengths(root))
    rows = pd.concat([present, new], ignore_index=True)
    stacks.prepare_stacks(root, slots.runs, lengths, store)
    for partition in partitions(new):
        members = new[new["partition"] == partition.name]
        chosen = [images[int(uri.rpartition("/")[2])] for uri in members["uri"]]
        sums = list(members["pixel_sha256"])
        names = list(members["uri"])
        record = micrographs.write_partition(root, partition, lambda i, of=chosen: frame(of[i]), sums, names)
        assert record["n_images"] == len(members)
        assert record["bytes"] == sum(image.nbytes for image in chosen)
    return rows


def planned(root, images, store):
    """Plan and prepare `images`, and write nothing; gives the table of all micrographs."""
    rows, lengths, slots = assign(survey(images), NONE, store, {})
    stacks.prepare_stacks(root, slots.runs, lengths, store)
    return rows


def write(root, partition, rows, read_frame):
    return micrographs.write_partition(root, partition, read_frame, list(rows["pixel_sha256"]), list(rows["uri"]))


def shard_files(folder):
    return sorted(p for p in folder.rglob("c/**/*") if p.is_file())


def same(a, b):
    """Are the pixels the same, bit for bit (NaN payloads too), whatever the byte order?"""
    return micrographs.hash_pixels(a) == micrographs.hash_pixels(b) and a.shape == b.shape


@settings(max_examples=40, deadline=None)
@given(
    dtype=st.sampled_from(DTYPES),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40), st.integers(1, 40)),
    length=st.integers(0, 4),
    compression=st.sampled_from(["auto", "zstd", "none"]),
    seed=st.integers(0, 5),
)
def test_every_micrograph_reads_back_bit_for_bit(tmp_path_factory, dtype, shape, length, compression, seed):
    root = str(tmp_path_factory.mktemp("w"))
    images = noise(shape, dtype, seed)
    rows = ingest(root, images, store=Store(shard_length=length, compression=compression))
    (name,) = set(rows["stack"])
    for partition in partitions(rows):
        whole = micrographs.read_partition(root, partition)
        one_by_one = list(micrographs.iterate_micrographs(root, partition))
        assert len(whole) == len(one_by_one) == len(partition)
        for index, a, b in zip(range(partition.start, partition.stop), whole, one_by_one):
            assert same(a, images[index])
            assert same(b, images[index])
            assert same(micrographs.read_window(root, name, index), images[index])
    array = zarr.open_array(f"{Workspace(root).stack(name)}/0", mode="r")
    assert array.dtype == np.dtype(dtype).newbyteorder("=")
    assert same(array[:].reshape(shape[0], -1), images.reshape(shape[0], -1))


def test_later_files_never_touch_a_shard(tmp_path):
    root = str(tmp_path)
    images = noise((12, 16, 16), "uint16", 1)
    rows = ingest(root, images[:7], store=Store(shard_length=4), prefix="a")
    (name,) = set(rows["stack"])
    folder = tmp_path / "micrographs.zarr" / name

    def state():
        return {p: (p.read_bytes(), p.stat().st_mtime_ns, p.stat().st_ino) for p in shard_files(folder)}

    before = state()
    assert len(before) == 2
    rows = ingest(root, images[7:], rows, Store(shard_length=9), prefix="b")
    assert before.items() < state().items()
    assert stacks.read_shard_lengths(root) == {name: 4}
    assert list(rows["index"]) == [*range(7), *range(8, 13)]
    group = zarr.open_group(str(folder), mode="r")
    assert group.attrs["emqa_dask"]["occupied"] == [[0, 7], [8, 13]]
    assert group["0"].shape == (13, 16, 16)
    for image, index in zip(images, rows["index"]):
        assert same(micrographs.read_window(root, name, index), image)
    with pytest.raises(OSError, match="is missing"):
        micrographs.read_window(root, name, 7)


def test_an_interrupted_stack_is_completed_by_the_next_run(tmp_path):
    root = str(tmp_path)
    images = noise((3, 8, 8), "uint8", 6)
    ingest(root, images)
    (metadata,) = tmp_path.rglob("0/zarr.json")
    whole = (metadata.parent.parent / "zarr.json").read_bytes()
    metadata.unlink()
    (metadata.parent.parent / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    assert stacks.read_shard_lengths(root) == {}
    rows = ingest(root, images)
    assert (metadata.parent.parent / "zarr.json").read_bytes() == whole
    np.testing.assert_array_equal(micrographs.read_window(root, rows["stack"].iloc[0], 2), images[2])


@pytest.mark.parametrize("compression", ["auto", "zstd", "none"])
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16"])
def test_metadata_are_what_zarr_python_would_write(tmp_path, dtype, compression):
    kind = np.dtype(dtype)
    name = layout.name_stack(6, 5, np.dtype(dtype).name, 0.5)
    how = {"occupied": [(0, 7)], "shard_length": 4, "settings": Store(compression=compression)}
    stacks.open_or_grow(str(tmp_path), name, (6, 5), dtype, **how)
    zstd = ZstdCodec(level=1)
    blosc = BloscCodec(typesize=kind.itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")
    compressors = {"none": [], "zstd": [zstd], "auto": [blosc if kind.itemsize > 1 else zstd]}[compression]
    theirs = zarr.create_array(
        zarr.storage.MemoryStore(), shape=(7, 6, 5), dtype=kind, chunks=(1, 6, 5), shards=(4, 6, 5), filters=None,
        compressors=[*compressors, Crc32cCodec()], fill_value=0, dimension_names=("n", "y", "x"), zarr_format=3,
    )  # fmt: skip
    written = json.loads(Path(Workspace(str(tmp_path)).stack(name), "0", "zarr.json").read_text())
    document = theirs.metadata.to_buffer_dict(zarr.core.buffer.default_buffer_prototype())["zarr.json"]
    assert list(written.pop("attributes")) == ["emqa_dask"]
    assert written | {"attributes": {}} == json.loads(document.to_bytes())
    assert stacks.read_grid(str(tmp_path), name).dtype == kind


@pytest.mark.parametrize("nm_per_pixel", [0.31, np.nan])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_stacks_are_valid_ome_zarr_and_open_with_ome_zarr(tmp_path, dtype, nm_per_pixel):
    root = str(tmp_path)
    images = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(dtype)
    rows = ingest(root, images, nm_per_pixel=nm_per_pixel, store=Store(shard_length=2))
    path = Workspace(root).stack(rows["stack"].iloc[0])
    model = Image.from_zarr(zarr.open_group(path, mode="r"))
    (level,) = model.attributes.ome.multiscales
    assert [axis.name for axis in level.axes] == ["n", "y", "x"]
    known = nm_per_pixel == nm_per_pixel
    assert [axis.unit for axis in level.axes] == [None, *(["nanometer" if known else None] * 2)]
    scale = nm_per_pixel if known else 1.0
    assert level.datasets[0].coordinateTransformations[0].scale == [1.0, scale, scale]
    (node,) = ome_zarr.reader.Reader(ome_zarr.io.parse_url(path))()
    np.testing.assert_array_equal(node.data[0].compute(scheduler="synchronous"), images)
    assert zarr.open_group(Workspace(root).stacks, mode="r")[rows["stack"].iloc[0]]["0"].shape == images.shape


def test_the_scale_of_a_stack_has_both_pixel_sizes(tmp_path):
    name = layout.name_stack(6, 7, "uint8", 0.5, 0.25)
    stacks.open_or_grow(str(tmp_path), name, (6, 7), "uint8", occupied=[(0, 1)], shard_length=1, settings=Store())
    level = Image.from_zarr(zarr.open_group(Workspace(str(tmp_path)).stack(name), mode="r")).attributes.ome.multiscales
    assert level[0].datasets[0].coordinateTransformations[0].scale == [1.0, 0.25, 0.5]


def test_a_large_micrograph_is_streamed_in_bands(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "BAND_BYTES", 1000)
    root = str(tmp_path)
    images = noise((3, 53, 40), "uint16", 2)
    rows = ingest(root, images, frame=lambda image: (image[i : i + 10] for i in range(0, 53, 10)))
    partition = partitions(rows)[0]
    cut = stacks.read_grid(root, partition.stack)
    assert cut.rows * 40 * 2 <= 1000
    assert same(micrographs.read_partition(root, partition)[0], images[0])
    window = micrographs.read_window(root, partition.stack, 1, slice(17, 31), slice(5, 9))
    np.testing.assert_array_equal(window, images[1][17:31, 5:9])
    array = zarr.open_array(f"{Workspace(root).stack(partition.stack)}/0", mode="r")
    np.testing.assert_array_equal(array[:], images)


IMAGE = noise((8, 8), "uint8", 3)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        (IMAGE ^ 1, "its pixels are others now"),
        (IMAGE.astype("uint16"), r"it has uint16 \(8, 8\) now"),
        (IMAGE[:7], "it has 7 rows now, not 8"),
        (IMAGE[:, :7], r"it has uint8 \(8, 7\) now"),
    ],
)
def test_a_file_changed_since_the_survey_leaves_its_slot_absent(tmp_path, now, said):
    root = str(tmp_path)
    images = [IMAGE.T.copy(), IMAGE, IMAGE[::-1].copy()]
    rows = planned(root, images, store=Store(shard_length=3))
    (partition,) = partitions(rows)
    record = write(root, partition, rows, lambda i: now if i == 1 else images[i])
    assert list(record["lost"]) == [1]
    assert re.search(f"m/001 changed since it was surveyed: {said}", record["lost"][1])
    for i, image in zip((0, 2), micrographs.iterate_micrographs(root, partition, [0, 2]), strict=True):
        np.testing.assert_array_equal(image, images[i])
    with pytest.raises(OSError, match="is missing"):
        next(micrographs.iterate_micrographs(root, partition, [1]))


def test_a_read_error_costs_one_slot_and_no_shard(tmp_path):
    root = str(tmp_path)
    images = noise((2, 8, 8), "uint8", 3)
    rows = planned(root, images, store=Store(shard_length=2))
    (partition,) = partitions(rows)

    def broken(i):
        if i:
            raise OSError("no such tape")
        return images[i]

    assert "no such tape" in write(root, partition, rows, broken)["lost"][1]
    assert "no such tape" in write(root, partition, rows, broken)["lost"][1]
    np.testing.assert_array_equal(next(micrographs.iterate_micrographs(root, partition, [0])), images[0])
    assert not write(root, partition, rows, lambda i: images[i])["lost"]
    # All is there and right now: nothing is read again.
    assert not write(root, partition, rows, broken)["lost"]
    np.testing.assert_array_equal(micrographs.read_partition(root, partition), images)


def test_a_shard_that_reads_back_otherwise_is_the_stores_fault(tmp_path, monkeypatch):
    root = str(tmp_path)
    images = noise((2, 8, 8), "uint8", 3)
    write = shards.write_shard

    def bad_disk(uri, cut, frames):
        return write(uri, cut, ([window ^ 1 for window in frame] for frame in frames))

    monkeypatch.setattr(shards, "write_shard", bad_disk)
    with pytest.raises(OSError, match=r"m/000 does not read back from .* as it was written: check the disk"):
        ingest(root, images)
    assert shard_files(tmp_path) == []


def damage(path, offset):
    """Flip a bit of the file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 4
    path.write_bytes(data)


def test_a_damaged_shard_is_mended_from_files_and_from_itself(tmp_path):
    root = str(tmp_path)
    images = noise((4, 8, 8), "uint16", 3)
    rows = ingest(root, images, store=Store(shard_length=4))
    (partition,) = partitions(rows)
    assert micrographs.find_damaged_slots(root, partition) == []
    (shard,) = shard_files(tmp_path)
    damage(shard, 5)  # in the chunk of the first micrograph

    def gone(i):
        if i != 0:
            raise FileNotFoundError("the file is gone")
        return images[i]

    assert micrographs.find_damaged_slots(root, partition) == [0]
    assert write(root, partition, rows, gone)["lost"] == {}
    np.testing.assert_array_equal(micrographs.read_partition(root, partition), images)


def test_only_micrographs_whose_file_is_gone_are_lost(tmp_path):
    root = str(tmp_path)
    images = noise((3, 8, 8), "uint16", 3)
    rows = ingest(root, images, store=Store(shard_length=3))
    (partition,) = partitions(rows)
    (shard,) = shard_files(tmp_path)
    damage(shard, -1)  # in the checksum of the index: no micrograph can be found

    def partly_gone(i):
        if i == 1:
            raise FileNotFoundError("the file is gone")
        return images[i]

    assert micrographs.find_damaged_slots(root, partition) == [0, 1, 2]
    assert list(write(root, partition, rows, partly_gone)["lost"]) == [1]
    assert micrographs.find_damaged_slots(root, partition) == []
    np.testing.assert_array_equal(list(micrographs.iterate_micrographs(root, partition, [0, 2])), images[[0, 2]])


@pytest.mark.parametrize("damaged", ["zarr.json", "stack/zarr.json", "stack/0/zarr.json"])
def test_damaged_metadata_are_noticed_and_written_again(tmp_path, damaged):
    root = str(tmp_path)
    images = noise((3, 8, 8), "uint16", 3)
    rows = ingest(root, images, store=Store(shard_length=3))
    (partition,) = partitions(rows)
    folder = tmp_path / "micrographs.zarr"
    path = folder / damaged.replace("stack", partition.stack)
    whole = path.read_bytes()
    for offset in range(len(whole)):
        damage(path, offset)
        np.testing.assert_array_equal(micrographs.read_partition(root, partition), images)
        array = stacks.read_array_document(root, partition.stack)
        stacks.write_documents(root, partition.stack, array, [(0, 3)])
        stacks.write_root(root)
        assert path.read_bytes() == whole, offset


def test_nothing_missing_reads_as_black(tmp_path):
    root = str(tmp_path)
    rows = ingest(root, noise((4, 8, 8), "uint8", 3), store=Store(shard_length=2))
    first, second = partitions(rows)
    shard = tmp_path / "micrographs.zarr" / first.stack / "0" / "c" / "1" / "0" / "0"
    shard.unlink()
    micrographs.read_partition(root, first)
    for read in (
        lambda: micrographs.read_partition(root, second),
        lambda: list(micrographs.iterate_micrographs(root, second)),
        lambda: micrographs.read_window(root, first.stack, 3),
    ):
        with pytest.raises(OSError, match="is missing: `emqa triage` on its workspace stores it again"):
            read()
    with pytest.raises(OSError, match="is missing or damaged: `emqa triage` on its workspace stores it again"):
        micrographs.read_partition(root, dataclasses.replace(first, stack="9x9-uint8-nopx"))


def test_iter_micrographs_gives_those_asked_for_in_their_order(tmp_path):
    root = str(tmp_path)
    images = noise((8, 4, 4), "uint8", 4)
    second = partitions(ingest(root, images, store=Store(shard_length=4)))[1]
    found = list(micrographs.iterate_micrographs(root, second, pd.Series([6, 4])))
    np.testing.assert_array_equal(found, images[[6, 4]])
    assert list(micrographs.iterate_micrographs(root, second, [])) == []
    for outside in (3, 8):
        with pytest.raises(IndexError, match=r"holds 4\.\.\.7"):
            micrographs.iterate_micrographs(root, second, [outside])


@pytest.mark.parametrize("dtype", ["longdouble", "M8[ns]", "S3", "O"])
def test_a_dtype_that_zarr_lacks_is_refused(tmp_path, dtype):
    with pytest.raises(ValueError, match="Zarr v3 has no dtype"):
        stacks.open_or_grow(str(tmp_path), "s", (4, 4), dtype, occupied=[(0, 1)], shard_length=1, settings=Store())


def test_a_micrograph_without_pixels_and_a_wrong_partition_are_refused(tmp_path):
    with pytest.raises(ValueError, match="has no pixels"):
        stacks.open_or_grow(str(tmp_path), "s", (0, 4), "u1", occupied=[(0, 1)], shard_length=1, settings=Store())
    root = str(tmp_path / "w")
    images = noise((4, 4, 4), "uint8", 4)
    first, _ = partitions(ingest(root, images, store=Store(shard_length=2)))
    for wrong in (Partition(first.stack, 1, 3), Partition(first.stack, 0, 3), Partition(first.stack, 0, 1)):
        with pytest.raises(ValueError, match=r"shards of 2"):
            micrographs.write_partition(root, wrong, lambda i: images[i], ["", ""], ["a", "b"])


def test_a_whole_workspace_on_an_fsspec_file_system():
    root = "memory://bucket/run"
    images = noise((5, 16, 16), "uint16", 5)
    marker.claim_workspace(root, "s3://archive")
    rows = ingest(root, images, store=Store(shard_length=2))
    for partition in partitions(rows):
        np.testing.assert_array_equal(
            micrographs.read_partition(root, partition), images[partition.start : partition.stop]
        )
    rows = ingest(root, images, rows, prefix="b")
    assert len(partitions(rows)) == 6
    assert stacks.read_shard_lengths(root) == {rows["stack"].iloc[0]: 2}
