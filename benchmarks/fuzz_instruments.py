"""Whole files as microscopes write them (TIA, MRC, Digital Micrograph, JEOL), for fuzz.py, with the pixels in them."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.archive.dm_files import make_image, write_dm
from tests.archive.jeol_files import write_jeol
from tests.archive.mrc_files import FEI_VALUES, make_fei_block, write_header
from tests.archive.tia_files import write_ser

Maker = Callable[[Path, np.ndarray], np.ndarray]  # (path, (h, w) uint16 pixels) -> (n, h, w) pixels in the file


def write_tia(path: Path, pixels: np.ndarray) -> np.ndarray:
    write_ser(path, [pixels], (2e-11, 2e-11))
    return pixels[None]


def write_tia_series(path: Path, pixels: np.ndarray) -> np.ndarray:
    frames = np.stack([pixels, pixels[::-1], pixels[:, ::-1]])
    write_ser(path, list(frames), (2e-11, 2e-11), version=0x210, n_total=5)
    return frames


def write_mrc_fei(path: Path, pixels: np.ndarray) -> np.ndarray:
    block = make_fei_block(b"FEI2", "<", FEI_VALUES | {"Pixel size X": 2e-11, "Pixel size Y": 2e-11})
    shape = (1, *pixels.shape)
    cell = (0.2 * shape[2], 0.2 * shape[1], 0.0)
    write_header(path, pixels.tobytes(), shape, 6, exttyp=b"FEI2", extended=block.tobytes(), cell=cell)
    return pixels[None]


def write_mrc_bytes(path: Path, pixels: np.ndarray) -> np.ndarray:
    grey = (pixels >> 8).astype(np.uint8)
    write_header(path, grey.tobytes(), (1, *grey.shape), 0, imod=0)
    return grey[None]


def write_mrc_4_bit(path: Path, pixels: np.ndarray) -> np.ndarray:
    grey = (pixels >> 12).astype(np.uint8)
    write_header(path, (grey[:, 0::2] | grey[:, 1::2] << 4).tobytes(), (1, *grey.shape), 101)
    return grey[None]


def write_dm4(path: Path, pixels: np.ndarray) -> np.ndarray:
    write_dm(path, make_image(pixels, scales=(0.02, 0.02)), version=4)
    return pixels[None]


def write_jeol_image(path: Path, pixels: np.ndarray) -> np.ndarray:
    write_jeol(path, pixels)
    return pixels[None]


INSTRUMENTS: dict[str, tuple[str, Maker]] = {
    "tia": (".ser", write_tia),
    "tia series": (".ser", write_tia_series),
    "mrc fei": (".mrc", write_mrc_fei),
    "mrc bytes": (".mrc", write_mrc_bytes),
    "mrc 4 bit": (".mrc", write_mrc_4_bit),
    "dm4": (".dm4", write_dm4),
    "jeol image": (".img", write_jeol_image),
}
