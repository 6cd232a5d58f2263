"""Libraries that read damaged and odd files print nothing on the terminal, also without the settings of `emqa`."""

import random
import subprocess
import sys
import warnings

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

READ_ALL = """
import sys
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive
statuses = [survey_file(entry, Archive())[0]["status"] for entry in scan_archive(sys.argv[1])]
print(len(statuses), statuses.count("ok"))
"""
N_DAMAGED = 6  # variants of each file


@pytest.fixture
def odd_files(tmp_path):
    """Whole files of several formats with odd contents, and copies with flipped bits or without their ends."""
    image = np.random.default_rng(0).integers(0, 60_000, (96, 128), np.uint16)
    tifffile.imwrite(tmp_path / "plain.tif", image, description="<OME><Image></OME", metadata=None)
    tifffile.imwrite(tmp_path / "deflate.tif", image, compression="zlib", tile=(32, 32), extratags=[
        (34118, "s", 0, "AP_MAG\r\nMag = what\r\n", True), (50431, "B", 4, b"\xff\xfe\x00\x01", True)])  # fmt: skip
    grey = Image.fromarray((image >> 8).astype(np.uint8))
    for name, options in {"a.jpg": {}, "b.jpg": {"progressive": True}, "c.png": {}, "d.tif": {"compression": "jpeg"},
                          "e.webp": {}, "f.bmp": {}, "g.gif": {}, "h.jp2": {}}.items():  # fmt: skip
        grey.save(tmp_path / name, **options)
    grey.convert("P").save(tmp_path / "palette.png", transparency=b"\x01\x02")
    with h5py.File(tmp_path / "i.h5", "w") as file:
        file.create_dataset("image", data=image, chunks=(32, 32), compression="gzip", fletcher32=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.save_array(str(tmp_path / "j.zarr"), image)
    rng = random.Random(1)
    for path in sorted(path for path in tmp_path.iterdir() if path.is_file()):
        data = path.read_bytes()
        for k in range(N_DAMAGED):
            damaged = bytearray(data if k % 2 else data[: rng.randrange(len(data) // 3, len(data))])
            for _ in range(2**k):
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
            (tmp_path / f"damaged-{k}-{path.name}").write_bytes(damaged)
    return tmp_path


def test_nothing_is_printed_while_files_are_read(odd_files):
    command = [sys.executable, "-W", "always", "-c", READ_ALL, str(odd_files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    n_files, n_read = map(int, done.stdout.split())
    assert n_files == len(list(odd_files.iterdir()))
    assert n_read > 20
    assert done.stderr == ""
