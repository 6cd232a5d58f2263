"""Masks of many objects at once, on the device of a network: pasted, thresholded and reduced to runs of pixels.

The pixels of all columns of all boxes stand one after the other in one tensor, so that no step loops over objects.
Each value is computed with the operations of PyTorch's kernels for CPUs, in their order: `fma` there is a product in
float64 here. The runs equal those of `masks.runs` of `masks.paste_as_torchvision` and `masks.paste_as_detectron2`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

CHUNK_PX = 1 << 21  # pixels pasted together: about 0.3 GB of temporary tensors
SMALL_PX = 128  # interpolate() adds in another order where height + width of its output are at most this
SEPARABLE = ()  # rows first, then columns


class MaskRuns(NamedTuple):
    """Runs of the masks of n objects, on the host."""

    runs: NDArray[np.int64]  # (r, 3): see masks.Runs; those of an object stand together
    counts: NDArray[np.int64]  # (n,): runs of each object

    def split(self) -> list[NDArray[np.int64]]:
        """The runs of each object, as views."""
        return np.split(self.runs, np.cumsum(self.counts)[:-1]) if len(self.counts) else []


class _Axis(NamedTuple):
    """Where the pixels of n crops lie along one axis, and how they map to the cells of their masks; on the host."""

    first: "torch.Tensor"  # (n,) int64: first pixel in the image
    size: "torch.Tensor"  # (n,) int64: pixels of the crop, 0 or more
    offset: "torch.Tensor"  # (n,) float32: see locate_cells
    scale: "torch.Tensor"  # (n,) float32


class _Columns(NamedTuple):
    """The columns of all crops, one after the other; on the device."""

    owner: "torch.Tensor"  # (c,) int64: position of the object
    pixel: "torch.Tensor"  # (c,) int64: column of the image
    cells: "tuple[torch.Tensor, ...]"  # two cells of the mask (c,) int64 and their weights (c,) float32


def find_runs_as_torchvision(masks: "torch.Tensor", boxes: "torch.Tensor", shapes: NDArray[np.int64]) -> MaskRuns:
    """Runs where masks (n, m, m; float32, in [0, 1]; any device) stretched over boxes exceed 0.5.

    boxes: (n, 4) float32, x0, y0, x1, y1, px, on the CPU; shapes: (n, 2), height and width of each object's image.
    """
    import torch
    from torchvision.models.detection.roi_heads import expand_boxes

    grown = expand_boxes(boxes, (masks.shape[-1] + 2) / masks.shape[-1]).long()
    n_pixels = (grown[:, 2:] - grown[:, :2] + 1).clamp(min=1)
    scales = torch.full_like(n_pixels, masks.shape[-1] + 2).float() / n_pixels.float()  # number / tensor rounds twice
    axes = [
        _Axis(low, (high - low).clamp(min=0), grown[:, k].float(), scales[:, k])
        for k in (0, 1)
        for low, high in [
            (grown[:, k].clamp(min=0), torch.minimum(grown[:, k + 2] + 1, torch.from_numpy(shapes[:, 1 - k])))
        ]
    ]
    is_small = n_pixels.sum(dim=1) <= SMALL_PX
    parts = [(is_small.nonzero()[:, 0], (1, 0, 2, 3)), ((~is_small).nonzero()[:, 0], SEPARABLE)]
    return _find_runs(masks, axes, _locate_torchvision_cells, parts, is_above=True)


def _locate_torchvision_cells(pixel: "torch.Tensor", start: "torch.Tensor", scale: "torch.Tensor", n_cells: int):
    """Cells (below, above) and weights of pixels: interpolate() of a mask with a border of one empty cell."""
    position = _fma(scale, pixel.float() - start + 0.5, -0.5).clamp(min=0)
    cell = position.floor().long().clamp(max=n_cells - 1)
    weight = (position - cell.float()).clamp(0, 1)
    return cell, (cell + 1).clamp(max=n_cells - 1), 1 - weight, weight


def find_runs_as_detectron2(masks: "torch.Tensor", boxes: "torch.Tensor", shapes: NDArray[np.int64]) -> MaskRuns:
    """The same, where masks reach 0.5 as detectron2 stretches them."""
    import torch

    low = (boxes[:, :2].floor() - 1).clamp(min=0).long()
    high = torch.minimum((boxes[:, 2:].ceil() + 1).long(), torch.from_numpy(shapes[:, ::-1].copy()))
    axes = [
        _Axis(low[:, k], (high - low)[:, k].clamp(min=0), boxes[:, k], boxes[:, k + 2] - boxes[:, k]) for k in (0, 1)
    ]
    return _find_runs(masks, axes, _locate_detectron2_cells, [(torch.arange(len(boxes)), (0, 1, 2, 3))], is_above=False)


def _locate_detectron2_cells(pixel: "torch.Tensor", start: "torch.Tensor", extent: "torch.Tensor", n_cells: int):
    """The same of grid_sample() with zeros beyond the mask: they are the border of empty cells."""
    position = _fma((pixel.float() + 0.5 - start) / extent * 2 - 1 + 1, (n_cells - 2) / 2, -0.5)
    position = position.nan_to_num(nan=-2.0, posinf=n_cells, neginf=-2.0)
    cell = position.floor()
    weight = position - cell
    index = cell.long() + 1
    return index.clamp(0, n_cells - 1), (index + 1).clamp(0, n_cells - 1), 1 - weight, weight


def _fma(a: "torch.Tensor", b: "torch.Tensor | float", c: "torch.Tensor | float") -> "torch.Tensor":
    """a * b + c, rounded once to float32."""
    b, c = (value if isinstance(value, float) else value.double() for value in (b, c))
    return (a.double() * b + c).float()


def _find_runs(
    masks: "torch.Tensor", axes: list[_Axis], locate_cells: Callable, parts: list[tuple], is_above: bool
) -> MaskRuns:
    """Runs of all objects; `parts` holds positions of objects, and the order in which their four cells are added."""
    import torch
    from torch.nn.functional import pad

    flat = pad(masks, (1, 1, 1, 1)).reshape(-1)
    n_cells = masks.shape[-1] + 2
    tables = [torch.zeros((0, 4), dtype=torch.int32, device=masks.device)]
    for objects, order in parts:
        width = axes[0].size[objects]
        height = axes[1].size[objects].where(width > 0, 0)
        objects = objects[height > 0]
        if not len(objects):
            continue
        columns = _spread(axes[0], objects, locate_cells, n_cells, masks.device)
        rows = _spread(axes[1], objects, locate_cells, n_cells, masks.device)
        lengths = height[height > 0].repeat_interleave(width[height > 0]) + 1  # an empty pixel after each column
        first_rows = (height[height > 0].cumsum(0) - height[height > 0]).repeat_interleave(width[height > 0])
        for chunk in _cut_chunks(lengths.numpy()):
            ends = [values[chunk].to(masks.device) for values in (lengths, first_rows)]
            part = _Columns(columns.owner[chunk], columns.pixel[chunk], tuple(v[chunk] for v in columns.cells))
            tables.append(_paste_columns(flat, n_cells, part, rows, *ends, int(lengths[chunk].sum()), order, is_above))
    table = torch.cat(tables).cpu().numpy().astype(np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return MaskRuns(table[:, 1:], np.bincount(table[:, 0], minlength=len(masks)))


def _spread(axis: _Axis, objects: "torch.Tensor", locate_cells: Callable, n_cells: int, device) -> _Columns:
    """The pixels of the crops of `objects` along an axis, one crop after the other."""
    import torch

    first, size, offset, scale = (values[objects].to(device) for values in axis)
    n = int(axis.size[objects].sum())
    k = torch.arange(len(objects), device=device).repeat_interleave(size, output_size=n)
    pixel = torch.arange(n, device=device) - (size.cumsum(0) - size)[k] + first[k]
    return _Columns(objects.to(device)[k], pixel, locate_cells(pixel, offset[k], scale[k], n_cells))


def _cut_chunks(lengths: NDArray[np.int64]) -> list[slice]:
    """Stretches of columns of at most CHUNK_PX pixels together, or of one column."""
    ends = np.cumsum(lengths)
    chunks = []
    start = 0
    while start < len(lengths):
        stop = max(start + 1, int(np.searchsorted(ends, ends[start] - lengths[start] + CHUNK_PX, side="right")))
        chunks.append(slice(start, stop))
        start = stop
    return chunks


def _paste_columns(
    flat: "torch.Tensor",
    n_cells: int,
    columns: _Columns,
    rows: _Columns,
    lengths: "torch.Tensor",
    first_rows: "torch.Tensor",
    n_pixels: int,
    order: tuple[int, ...],
    is_above: bool,
) -> "torch.Tensor":
    """Runs (r, 4) int32 of some columns: object, column, first row, row after the last."""
    import torch

    column = torch.arange(len(lengths), device=flat.device).repeat_interleave(lengths, output_size=n_pixels)
    row = torch.arange(n_pixels, device=flat.device) - (lengths.cumsum(0) - lengths)[column]
    is_blank = row == (lengths - 1)[column]
    row += first_rows[column]
    row[is_blank] -= 1
    x0, x1, x0_weight, x1_weight = (values[column] for values in columns.cells)
    y0, y1, y0_weight, y1_weight = (values[row] for values in rows.cells)
    start = columns.owner[column] * n_cells**2
    cells = [flat[start + y * n_cells + x] for y in (y0, y1) for x in (x0, x1)]
    values = _add_cells(cells, (x0_weight, x1_weight), (y0_weight, y1_weight), order)
    is_inside = (values > 0.5 if is_above else values >= 0.5) & ~is_blank
    edges = (is_inside != torch.cat([is_inside.new_zeros(1), is_inside[:-1]])).nonzero()[:, 0]
    first, stop = edges[::2], edges[1::2]
    run_column = column[first]
    first_row = rows.pixel[row[first]]
    runs = [columns.owner[run_column], columns.pixel[run_column], first_row, first_row + stop - first]
    return torch.stack(runs, dim=1).int()


def _add_cells(cells: list, x_weights: tuple, y_weights: tuple, order: tuple[int, ...]) -> "torch.Tensor":
    """Bilinear values from four cells each: (y0, x0), (y0, x1), (y1, x0), (y1, x1)."""
    if order == SEPARABLE:
        upper, lower = (_fma(left, x_weights[0], right * x_weights[1]) for left, right in (cells[:2], cells[2:]))
        return _fma(upper, y_weights[0], lower * y_weights[1])
    weights = [y_weight * x_weight for y_weight in y_weights for x_weight in x_weights]
    values = weights[order[0]] * cells[order[0]]
    for k in order[1:]:
        values = _fma(weights[k], cells[k], values)
    return values
