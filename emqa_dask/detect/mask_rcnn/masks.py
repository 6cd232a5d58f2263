"""Masks of objects: pasted from 28 x 28 into crops, kept as runs of pixels, measured, and written as COCO's RLE.

Nothing here has the size of n images: a mask is at most the size of its box while it is pasted, and its runs after.
"""

import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.mask_runs import encode_objects, find_runs, measure_objects

if TYPE_CHECKING:
    import torch

Runs = NDArray[np.int64]  # k x 3: column, first row, row after the last; sorted; no two touch in one column


class Crop(NamedTuple):
    """A part of an image's mask; everything outside is empty."""

    y0: int
    x0: int
    mask: NDArray[np.bool_]  # (h, w)


class Shapes(NamedTuple):
    """What is measured of n masks."""

    area_px: NDArray[np.float64]  # (n,)
    circularity: NDArray[np.float64]  # (n,); NaN for an empty mask
    diameter_px: NDArray[np.float64]  # (n,); NaN for an empty mask


def paste_as_torchvision(masks: "torch.Tensor", boxes: "torch.Tensor", shape: tuple[int, int]) -> Iterator[Crop]:
    """Where masks (n, m, m; float32, in [0, 1]) stretched over boxes (n, 4; x0, y0, x1, y1; px) exceed 0.5.

    The pixels are those of `torchvision.models.detection.roi_heads.paste_masks_in_image(...) > 0.5` in an image of
    `shape` (h, w); both tensors are on the CPU. Boxes outside the image give crops without pixels.
    """
    from torch.nn.functional import interpolate, pad
    from torchvision.models.detection.roi_heads import expand_boxes

    scale = (masks.shape[-1] + 2) / masks.shape[-1]
    grown = expand_boxes(boxes, scale).long().tolist() if len(boxes) else []
    for mask, (left, top, right, bottom) in zip(pad(masks, (1, 1, 1, 1)), grown):
        size = max(bottom - top + 1, 1), max(right - left + 1, 1)
        x0 = max(left, 0)
        x1 = min(right + 1, shape[1])
        y0 = max(top, 0)
        y1 = min(bottom + 1, shape[0])
        if x0 >= x1 or y0 >= y1:
            yield Crop(0, 0, np.zeros((0, 0), bool))
            continue
        filled = interpolate(mask[None, None], size=size, mode="bilinear", align_corners=False)[0, 0]
        yield Crop(y0, x0, (filled[y0 - top : y1 - top, x0 - left : x1 - left] > 0.5).numpy())


def paste_as_detectron2(masks: "torch.Tensor", boxes: "torch.Tensor", shape: tuple[int, int]) -> Iterator[Crop]:
    """The same, with the pixels of `detectron2.layers.mask_ops.paste_masks_in_image(..., threshold=0.5)` on a CPU."""
    import torch
    from torch.nn.functional import grid_sample

    lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
    highs = (boxes[:, 2:].ceil() + 1).int().tolist()
    rows, columns = (torch.arange(n, dtype=torch.float32) + 0.5 for n in shape)
    for mask, box, (x0, y0), (x1, y1) in zip(masks, boxes, lows, highs):
        y = (rows[y0:y1] - box[1]) / (box[3] - box[1]) * 2 - 1
        x = (columns[x0:x1] - box[0]) / (box[2] - box[0]) * 2 - 1
        grid = torch.stack([x[None].expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=2)
        filled = grid_sample(mask[None, None], grid[None], align_corners=False)[0, 0]
        yield Crop(y0, x0, (filled >= 0.5).numpy())


def runs(crop: Crop) -> Runs:
    """The pixels of a mask as vertical runs, in the whole image's coordinates."""
    return find_runs(crop.mask.T) + np.array([crop.x0, crop.y0, crop.y0])


def encode(mask_runs: Sequence[Runs], shape: tuple[int, int]) -> list[str]:
    """COCO's compressed RLE counts (ascii) of masks in an image of `shape` (h, w): equal to pycocotools' `encode`."""
    text, ends = encode_objects(*_join(mask_runs), int(shape[0]), int(shape[0] * shape[1]))
    characters = text.tobytes().decode("ascii")
    return [characters[start:end] for start, end in pairwise([0, *ends.tolist()])]


def _join(mask_runs: Sequence[Runs]) -> tuple[Runs, NDArray[np.int64]]:
    """The runs of n masks one after the other, and where those of each begin and end (n + 1,)."""
    offsets = np.cumsum([0, *(len(run) for run in mask_runs)])
    return np.concatenate([np.zeros((0, 3), np.int64), *mask_runs]), offsets


def decode(rle: str, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The mask (h, w) of COCO's compressed RLE counts."""
    from pycocotools.mask import decode as decoded

    with warnings.catch_warnings():  # of numpy 2, at pycocotools 2.0
        warnings.simplefilter("ignore", DeprecationWarning)
        return decoded({"size": [int(shape[0]), int(shape[1])], "counts": rle.encode("ascii")}).astype(bool)


def measure(mask_runs: Sequence[Runs]) -> Shapes:
    """Areas, and Heywood's circularity and diameter of the convex hulls; the definitions of Li et al. (2025).

    circularity = P / (2 sqrt(pi A)) of the hull: 1 for a disk and larger for all else. diameter =
    2 sqrt(d_min d_max), d the distances of the hull's corners to their mean. A pixel reaches half a pixel up, down,
    left and right (as in `skimage.morphology.convex_hull_image`): disks of 4 px to 32 px come out 0.3 px to 0.5 px too
    wide, with whole squares 0.8 px too wide, with the pixels' centres alone 0.5 px too narrow.
    Li et al., Digital Discovery 4 (2025) 987.
    """
    return Shapes(*measure_objects(*_join(mask_runs)).T)
