"""Damaged at random, no file of any format makes survey() raise, hang or say nothing."""

from collections.abc import Iterator

import h5py
import numpy as np
import pytest
import tifffile
from bad_files import dm3, image, write_mrc
from PIL import Image

from emqa_dask.archive.entries import Entry
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive
from tests.operations import count_calls

N_DAMAGED = 25
TIFFS = {
    "plain": {},
    "zlib": {"compression": "zlib", "predictor": True},
    "tiled": {"compression": "lzw", "tile": (16, 16)},
    "strips": {"compression": "zstd", "rowsperstrip": 7},
    "big": {"bigtiff": True},
    "imagej": {"imagej": True},
    "ome": {"ome": True},
}
NAMES = [*(f"{n}.tif" for n in TIFFS), "stack.tif", "x.png", "x.jpg", "x.bmp", "x.gif", "x.webp", "x16.png", "x.mrc",
         "x.h5", "x.dm3"]  # fmt: skip


def valid(name: str, folder) -> bytes:
    """The bytes of a valid file called `name`."""
    path = folder / name
    stem = name.partition(".")[0]
    if name.endswith(".tif"):
        pixels = np.stack([image(k) for k in range(4)]) if stem == "stack" else image(1)
        tifffile.imwrite(path, pixels, photometric="minisblack", **TIFFS.get(stem, {}))
    elif name == "x.mrc":
        write_mrc(path, np.stack([image(k, dtype="int16") for k in range(2)]))
    elif name == "x.h5":
        with h5py.File(path, "w") as file:
            file.create_dataset("data", data=image(1), chunks=(8, 8), compression="gzip")
    elif name == "x.dm3":
        path.write_bytes(dm3(image(1, dtype="int16")))
    else:
        Image.fromarray(image(1, dtype="uint16" if "16" in name else "uint8")).save(path)
    return path.read_bytes()


MAX_CALLS = 200_000  # in the survey of a damaged file; a PNG took 55 000, others less than 7000


def damaged(data: bytes, rng: np.random.Generator) -> Iterator[bytes]:
    """Versions of `data`: cut short, bits flipped anywhere, header bytes set to extremes, a stretch replaced."""
    for k in range(N_DAMAGED):
        out = bytearray(data)
        if k % 4 == 0:
            out = out[: rng.integers(len(out))]
        elif k % 4 == 1:
            for at in rng.integers(0, len(out), rng.integers(1, 20)):
                out[at] ^= 1 << int(rng.integers(8))
        elif k % 4 == 2:
            for at in rng.integers(0, min(len(out), 1024), rng.integers(1, 6)):
                out[at] = int(rng.choice([0, 1, 127, 128, 255]))
        else:
            at = int(rng.integers(0, len(out)))
            out[at : at + int(rng.integers(1, 64))] = rng.bytes(int(rng.integers(64)))
        yield bytes(out)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_a_row(tmp_path, name):
    data = valid(name, tmp_path)
    path = tmp_path / name
    whole, found = survey_file(Entry(name, str(path), len(data)), Archive())
    assert (whole["status"], whole["reason"]) == ("ok", "")
    assert (found[0]["height_px"], found[0]["width_px"]) == (48, 64)
    rng = np.random.default_rng(NAMES.index(name))
    for version in damaged(data, rng):
        path.write_bytes(version)
        (row, found), n_calls = count_calls(survey_file, Entry(name, str(path), len(version)), Archive())
        assert n_calls < MAX_CALLS
        assert (row["status"] == "ok") == bool(found)
        assert row["status"] == "ok" or (row["reason"] and "\n" not in row["reason"])
