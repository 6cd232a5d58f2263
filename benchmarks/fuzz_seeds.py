"""Whole files of every format that is read, each of an image of its own, and where in them a format can tell damage."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import h5py
import numpy as np
import tifffile
import zarr
from PIL import Image

from benchmarks.fuzz_containers import CONTAINERS, WHOLE_FILE_CHECKSUMS
from benchmarks.fuzz_instruments import INSTRUMENTS
from emqa_dask.synthetic import writers
from emqa_dask.synthetic.profiles import make_sample
from tests.archive.bad_files import dm3

SIDE = 384  # px; a share of the images is trusted at this size
REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_SUFFIXES = (".dm3", ".dm4", ".ser", ".elid", ".emd", ".h5", ".mrc", ".map", ".tif", ".tiff")
REAL_BYTES = 480_000  # larger ones are long series, of which each costs as much as hundreds of others


@dataclass(frozen=True)
class Seed:
    """A whole file: its pixels by an independent reader (n, h, w), and the byte ranges in which damage can be told."""

    kind: str
    suffix: str
    data: bytes
    frames: np.ndarray | None
    checked: tuple[tuple[int, int], ...] = ()


def draw_image(rng: np.random.Generator, dtype: str = "uint8") -> np.ndarray:
    """A lattice of atoms (SIDE, SIDE) of `dtype`: what the detector can do, so that many are trusted."""
    return make_sample("atomic-stem", rng, (SIDE, SIDE), clear=True, dtype=dtype).image


TIFFS = {
    "tiff zlib": {"compression": "zlib", "rowsperstrip": 32},
    "tiff zlib predictor": {"compression": "zlib", "predictor": True, "tile": (64, 64)},
    "tiff lzw": {"compression": "lzw", "rowsperstrip": 32},
    "tiff zstd": {"compression": "zstd", "rowsperstrip": 64},
    "tiff lzma": {"compression": "lzma", "rowsperstrip": 64},
    "tiff packbits": {"compression": "packbits", "rowsperstrip": 32},
    "tiff jpeg": {"compression": "jpeg", "rowsperstrip": 64},
    "tiff png": {"compression": "png", "tile": (128, 128)},
    "bigtiff": {"bigtiff": True},
    "tiff tiled": {"tile": (64, 64)},
}
PICTURES = {
    "jpeg progressive": (".jpg", {"progressive": True, "quality": 90}),
    "jpeg restarts": (".jpg", {"restart_marker_rows": 1, "quality": 85}),
    "jpeg optimised": (".jpg", {"optimize": True, "quality": 95}),
    "bmp": (".bmp", {}),
    "gif": (".gif", {}),
    "webp": (".webp", {"lossless": True}),
    "webp lossy": (".webp", {"quality": 90}),
    "png pillow": (".png", {}),
}
HDF5S = {
    "hdf5": {},
    "hdf5 gzip": {"chunks": (64, 64), "compression": "gzip"},
    "hdf5 fletcher32": {"chunks": (64, 64), "fletcher32": True},
    "hdf5 lzf": {"chunks": (64, 64), "compression": "lzf", "shuffle": True},
}
WITH_CHECKSUMS = ("tiff zlib", "tiff zlib predictor", "tiff lzma", "tiff png", "hdf5 gzip", "hdf5 fletcher32", "hspy")


def make_tiff(name: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    pixels = draw_image(rng, "uint8" if name in ("tiff jpeg", "tiff png") else "uint16")
    tifffile.imwrite(path, pixels, photometric="minisblack", **TIFFS[name])
    return tifffile.imread(path)[None]


def make_picture(name: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    Image.fromarray(draw_image(rng)).save(path, **PICTURES[name][1])
    if path.suffix == ".gif":
        return np.asarray(Image.open(path).convert("L"))[None]
    return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)[None]


def make_hdf5(name: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    pixels = draw_image(rng, "uint16")
    with h5py.File(path, "w") as file:
        file.create_dataset("scan/image", data=pixels, **HDF5S[name])
    return pixels[None]


def make_dm3(path: Path, rng: np.random.Generator) -> np.ndarray:
    pixels = draw_image(rng).astype(np.int16)
    path.write_bytes(dm3(pixels))
    return pixels[None]


def make_written(format_: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    """As emqa synthesise writes it."""
    _, dtypes, most, _ = writers.FORMATS[format_]
    frames = np.stack([draw_image(rng, dtypes[0]) for _ in range(min(most, 3))])
    writers.write_frames(path, format_, frames, 0.02)
    if format_ == "jpeg":
        return cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_GRAYSCALE)[None]
    return frames


def make_container(kind: str, path: Path, rng: np.random.Generator) -> np.ndarray | None:
    return (CONTAINERS | INSTRUMENTS)[kind][1](path, draw_image(rng, "uint16"))


MAKERS: dict[str, tuple[str, Callable[[Path, np.random.Generator], np.ndarray | None]]] = {
    **{f"written {name}": (entry[0], partial(make_written, name)) for name, entry in writers.FORMATS.items()},
    **{name: (".tif", partial(make_tiff, name)) for name in TIFFS},
    **{name: (suffix, partial(make_picture, name)) for name, (suffix, _) in PICTURES.items()},
    **{name: (".h5", partial(make_hdf5, name)) for name in HDF5S},
    **{name: (suffix, partial(make_container, name)) for name, (suffix, _) in (CONTAINERS | INSTRUMENTS).items()},
    "dm3": (".dm3", make_dm3),
}


def make_seed(kind: str, folder: Path, rng: np.random.Generator) -> Seed:
    """A whole file of `kind`, a key of MAKERS, of an image of its own; nothing of it stays in `folder`."""
    suffix, make = MAKERS[kind]
    path = folder / f"seed{suffix}"
    frames = make(path, rng)
    seed = Seed(kind, suffix, path.read_bytes(), frames, checked_ranges(path, kind))
    path.unlink()
    return seed


def checked_ranges(path: Path, kind: str) -> tuple[tuple[int, int], ...]:
    """Where in the file a checksum (or, for JPEG, libjpeg) covers the bytes."""
    size = path.stat().st_size
    if path.suffix == ".png" or path.suffix == ".elid" or kind in WHOLE_FILE_CHECKSUMS:
        return ((0, size),)
    if path.suffix == ".tif" and kind in WITH_CHECKSUMS:
        with tifffile.TiffFile(path) as tif:
            page = tif.pages[0]
            return tuple((a, a + n) for a, n in zip(page.dataoffsets, page.databytecounts))
    if path.suffix == ".h5" and kind in WITH_CHECKSUMS:
        with h5py.File(path) as file:
            dataset = file["scan/image"].id
            chunks = [dataset.get_chunk_info(k) for k in range(dataset.get_num_chunks())]
            return tuple((c.byte_offset, c.byte_offset + c.size) for c in chunks)
    return ()


def real_seeds(folder: Path = REAL) -> list[Seed]:
    """Files of instruments, where ../shared/data is at hand."""
    results = [p for p in sorted(folder.glob("formats_*/**/*")) if p.suffix in REAL_SUFFIXES and p.is_file()]
    small = [p for p in results if p.stat().st_size <= REAL_BYTES]
    return [Seed(f"real {p.suffix[1:]}", p.suffix, p.read_bytes(), None, checked_ranges(p, "real")) for p in small]


ZARRS = {
    "zarr v2 raw": {"zarr_format": 2, "compressors": None},
    "zarr v2": {"zarr_format": 2},
    "zarr v3": {},
    "zarr v3 raw": {"compressors": None},
    "zarr v3 sharded": {"shards": (192, 192)},
    "ome-zarr 0.4": {"zarr_format": 2},
    "ome-zarr 0.5": {},
}


def make_zarr(kind: str, path: Path, rng: np.random.Generator) -> np.ndarray:
    """A whole Zarr folder of `kind`, a key of ZARRS, at `path`; its pixels (1, h, w)."""
    pixels = draw_image(rng, "uint16")
    options = {"shape": (SIDE, SIDE), "chunks": (96, 96), "dtype": "uint16"}
    options |= ZARRS[kind]
    if kind.startswith("ome"):
        version = options.pop("zarr_format", 3)
        group = zarr.open_group(str(path), mode="w", zarr_format=version)
        image = {"axes": [{"name": n, "type": "space", "unit": "nanometer"} for n in "yx"]}
        scale = [{"type": "scale", "scale": [0.02, 0.02]}]
        image["datasets"] = [{"path": "0", "coordinateTransformations": scale}]
        group.attrs.update(
            {"multiscales": [image | {"version": "0.4"}]}
            if version == 2
            else {"ome": {"version": "0.5", "multiscales": [image]}}
        )
        array = group.create_array("0", **options)
    else:
        array = zarr.create_array(str(path), **options)
    array[:] = pixels
    return pixels[None]


def zarr_chunks(path: Path) -> list[Path]:
    """The files of a Zarr folder that hold pixels."""
    return [p for p in sorted(path.rglob("*")) if p.is_file() and not p.name.startswith(".z") and p.name != "zarr.json"]


def zarr_documents(path: Path) -> list[Path]:
    """The files of a Zarr folder that hold metadata."""
    return [p for p in sorted(path.rglob("*")) if p.is_file() and (p.name.startswith(".z") or p.name == "zarr.json")]
