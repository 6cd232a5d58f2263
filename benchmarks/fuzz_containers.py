"""Whole files of containers and of formats that other programs write, for fuzz.py, with the pixels in them."""

import bz2
import gzip
import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin
import imagecodecs
import mrcfile
import numpy as np
import tifffile
from PIL import Image

Maker = Callable[[Path, np.ndarray], np.ndarray]  # (path, (h, w) uint16 pixels) -> (n, h, w) pixels in the file


def write_npy(path: Path, pixels: np.ndarray) -> np.ndarray:
    np.save(path, pixels)
    return pixels[None]


def write_npz(path: Path, pixels: np.ndarray) -> np.ndarray:
    np.savez_compressed(path, image=pixels)
    return pixels[None]


def write_jpeg2000(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels, codecformat="jp2", level=0))
    return pixels[None]


def write_pgm(path: Path, pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape
    path.write_bytes(b"P5\n# a comment\n%d %d\n65535\n" % (width, height) + pixels.astype(">u2").tobytes())
    return pixels[None]


def _make_mrc(path: Path, pixels: np.ndarray) -> bytes:
    """An MRC file by mrcfile, which is written beside `path` and removed."""
    written = path.with_suffix(".tmp")
    with mrcfile.new(written) as file:
        file.set_data(pixels)
        file.voxel_size = 0.2
    data = written.read_bytes()
    written.unlink()
    return data


def write_mrc_gzip(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.write_bytes(gzip.compress(_make_mrc(path, pixels), mtime=0))
    return pixels[None]


def write_mrc_bzip2(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.write_bytes(bz2.compress(_make_mrc(path, pixels)))
    return pixels[None]


def write_mrc_4bit(path: Path, pixels: np.ndarray) -> np.ndarray:
    """MRC mode 101, two pixels a byte, as IMOD and SerialEM write it."""
    grey = (pixels >> 12).astype(np.uint8)
    header = bytearray(_make_mrc(path, np.zeros_like(pixels))[:1024])
    struct.pack_into("<i", header, 12, 101)
    path.write_bytes(bytes(header) + (grey[:, 0::2] | grey[:, 1::2] << 4).tobytes())
    return grey[None]


def write_imagej_zip(path: Path, pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels, imagej=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("image.tif", buffer.getvalue())
    return pixels[None]


def write_ncem_emd(path: Path, pixels: np.ndarray) -> np.ndarray:
    """EMD as the standard describes it: dim1 belongs to the first axis."""
    frames = np.stack([pixels, pixels[::-1]])
    with h5py.File(path, "w") as file:
        file.attrs["version_major"] = 0
        file.attrs["version_minor"] = 2
        group = file.create_group("data/series")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=frames, chunks=(1, 96, 96), compression="gzip")
        for k, (name, unit) in enumerate((("time", "[s]"), ("y", "[n_m]"), ("x", "[n_m]")), 1):
            dim = group.create_dataset(f"dim{k}", data=np.arange(frames.shape[k - 1]) * 0.02)
            dim.attrs["name"] = name
            dim.attrs["units"] = unit
    return frames


def write_dm5(path: Path, pixels: np.ndarray) -> np.ndarray:
    with h5py.File(path, "w") as file:
        file["ImageList/[0]/ImageData/Data"] = np.zeros((96, 96), np.int32)
        file["ImageList/[1]/ImageData/Data"] = pixels
    return pixels[None]


def write_bitshuffle(path: Path, pixels: np.ndarray) -> np.ndarray:
    with h5py.File(path, "w") as file:
        file.create_dataset("entry/data", data=pixels, chunks=(96, 96), **hdf5plugin.Bitshuffle())
    return pixels[None]


def write_palette_tiff(path: Path, pixels: np.ndarray) -> np.ndarray:
    grey = (pixels >> 8).astype(np.uint8)
    x = np.arange(256)
    colours = np.stack([np.clip(3 * x, 0, 255), np.clip(3 * x - 255, 0, 255), np.clip(3 * x - 510, 0, 255)])
    tifffile.imwrite(path, grey, photometric="palette", colormap=(colours * 257).astype(np.uint16))
    return grey[None]


def write_detectors_tiff(path: Path, pixels: np.ndarray) -> np.ndarray:
    frames = np.stack([pixels, pixels[::-1]])
    samples = np.moveaxis(frames, 0, -1)
    tifffile.imwrite(path, samples, photometric="minisblack", planarconfig="contig", compression="zlib")
    return frames


def write_annotated_png(path: Path, pixels: np.ndarray) -> None:
    grey = (pixels >> 8).astype(np.uint8)
    rgb = np.stack([grey] * 3, axis=-1)
    rgb[300:340, 40:200] = (255, 255, 0)
    Image.fromarray(rgb).save(path)


CONTAINERS: dict[str, tuple[str, Callable[[Path, np.ndarray], np.ndarray | None]]] = {
    "npy": (".npy", write_npy),
    "npz": (".npz", write_npz),
    "jpeg 2000": (".jp2", write_jpeg2000),
    "pgm": (".pgm", write_pgm),
    "mrc gzip": (".mrc.gz", write_mrc_gzip),
    "mrc bzip2": (".mrc.bz2", write_mrc_bzip2),
    "mrc 4 bit": (".mrc", write_mrc_4bit),
    "imagej zip": (".zip", write_imagej_zip),
    "emd ncem": (".emd", write_ncem_emd),
    "dm5": (".dm5", write_dm5),
    "hdf5 bitshuffle": (".h5", write_bitshuffle),
    "tiff palette": (".tif", write_palette_tiff),
    "tiff detectors": (".tif", write_detectors_tiff),
    "png annotated": (".png", write_annotated_png),
}
WHOLE_FILE_CHECKSUMS = ("npz", "mrc gzip", "mrc bzip2", "imagej zip", "png annotated")  # a CRC covers every pixel
