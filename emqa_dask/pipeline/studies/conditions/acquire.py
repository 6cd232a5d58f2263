"""Labelled images acquired again under the conditions of a grid: drawn specimens, and micrographs of a workspace."""

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask.synthetic import hrtem
from emqa_dask.synthetic.sample import compute_tight_boxes

# Conditions in the order in which an image is acquired: images of a defocus are computed once.
DRAWN_CONDITIONS = ("defocus_nm", "nm_per_pixel", "dose_e_per_nm2")
RECORDED_CONDITIONS = ("nm_per_pixel", "dose_e_per_nm2")
MIN_SIDE_PX = 32  # of an image with coarser pixels


class Acquisition(NamedTuple):
    """An image and the true boxes in it, under one combination of conditions."""

    image: NDArray[np.float32]  # electrons
    boxes: NDArray[np.float64]  # (n, 4)
    nm_per_pixel: float


def acquire_scene(number: int, seed: int, side_nm: float, axes: Mapping[str, NDArray]) -> Iterator[Acquisition]:
    """A drawn specimen under every combination of conditions, in the order of response_surface.list_grid_points().

    The specimen, a square of `side_nm`, is drawn with the finest pixels of the grid. Every image has noise of its own.
    """
    finest_nm = float(axes["nm_per_pixel"].min())
    side_px = round(side_nm / finest_nm)
    scene = hrtem.draw_scene(np.random.default_rng([seed, number]), (side_px, side_px), finest_nm)
    boxes = compute_tight_boxes(scene.masks)
    for i, defocus_nm in enumerate(axes["defocus_nm"]):
        intensity = hrtem.compute_intensity(scene, float(defocus_nm))
        for j, k in itertools.product(*(range(len(axes[name])) for name in ("nm_per_pixel", "dose_e_per_nm2"))):
            nm_per_pixel = float(axes["nm_per_pixel"][j])
            dose = float(axes["dose_e_per_nm2"][k])
            rng = np.random.default_rng([seed, number, i, j, k])
            image = hrtem.record_intensity(rng, intensity, finest_nm, nm_per_pixel, dose)
            yield Acquisition(image, boxes * (image.shape[0] / side_px), nm_per_pixel)


class Recording(NamedTuple):
    """A labelled micrograph as it was acquired."""

    name: str
    image: NDArray  # (h, w); grey values that are proportional to the electrons
    boxes: NDArray[np.float64]  # (n, 4)
    nm_per_pixel: float
    dose_e_per_nm2: float


def check_recording(recording: Recording, axes: Mapping[str, NDArray]) -> None:
    """Raises ValueError for a micrograph that cannot be acquired again under the conditions of the grid.

    An image has the electrons that it has: none are added to it, and no detail below its pixels.
    """
    name = recording.name
    dose = recording.dose_e_per_nm2
    if not dose > 0:
        raise ValueError(f"{name}: its dose is unknown, so no lower one can be made of it; label images that state it")
    if not recording.nm_per_pixel > 0:
        raise ValueError(f"{name}: its pixel size is unknown; give it with --set archive.nm_per_pixel")
    highest = float(axes["dose_e_per_nm2"].max())
    if highest > dose * (1 + 1e-6):
        raise ValueError(
            f"{name}: its dose is {dose:g} e/nm2, the grid asks for {highest:g}: a noisy image holds no further "
            f"electrons; give --dose up to {dose:g}"
        )
    finest = float(axes["nm_per_pixel"].min())
    if finest < recording.nm_per_pixel * (1 - 1e-6):
        raise ValueError(
            f"{name}: its pixels are {recording.nm_per_pixel:g} nm, the grid asks for {finest:g}: no finer detail was "
            f"recorded; give --pixel-size from {recording.nm_per_pixel:g}"
        )
    coarsest = float(axes["nm_per_pixel"].max())
    side_px = min(recording.image.shape) * recording.nm_per_pixel / coarsest
    if side_px < MIN_SIDE_PX:
        raise ValueError(f"{name}: with pixels of {coarsest:g} nm it has {side_px:.0f} px a side, below {MIN_SIDE_PX}")


def acquire_recording(
    recording: Recording, number: int, seed: int, axes: Mapping[str, NDArray]
) -> Iterator[Acquisition]:
    """A micrograph at lower doses and with larger pixels, in the order of response_surface.list_grid_points().

    Each electron is kept with the probability dose / own dose, which makes Poisson noise of a lower dose from that of
    the own one. This assumes a camera that counts, with grey values proportional to the electrons; noise that the
    camera has spread over neighbouring pixels stays spread. The defocus is not changed: an intensity has lost the phase
    that another defocus would show, so any filter would be an invention.
    """
    electrons = count_electrons(recording.image, recording.dose_e_per_nm2, recording.nm_per_pixel)
    h, w = electrons.shape
    for j, k in itertools.product(*(range(len(axes[name])) for name in RECORDED_CONDITIONS)):
        nm_per_pixel = float(axes["nm_per_pixel"][j])
        share = float(axes["dose_e_per_nm2"][k]) / recording.dose_e_per_nm2
        rng = np.random.default_rng([seed, number, j, k])
        kept_electrons = rng.binomial(electrons, min(share, 1.0)).astype(np.float32) if share < 1 - 1e-6 else electrons
        ratio = nm_per_pixel / recording.nm_per_pixel
        size = (max(1, round(w / ratio)), max(1, round(h / ratio)))
        image = np.float32(ratio**2) * cv2.resize(kept_electrons.astype(np.float32), size, interpolation=cv2.INTER_AREA)
        scale = np.array([size[1] / h, size[0] / w] * 2)
        yield Acquisition(image, recording.boxes * scale, nm_per_pixel)


def count_electrons(image: ArrayLike, dose_e_per_nm2: float, nm_per_pixel: float) -> NDArray[np.int64]:
    """Electrons per pixel (h, w) of an image whose grey values are proportional to them, from its mean dose."""
    values = np.asarray(image, np.float64)
    values = np.where(np.isfinite(values), values, 0).clip(min=0)
    mean = values.mean()
    if not mean > 0:
        raise ValueError("the image has no grey value above 0, so no electrons can be counted in it")
    return np.rint(values * (dose_e_per_nm2 * nm_per_pixel**2 / mean)).astype(np.int64)
