"""Masks of many objects at once, on the device of a network: pasted, thresholded and reduced to runs of pixels.

The pixels of all columns of all boxes stand one after the other in one tensor, so that no step loops over objects.
Each value is computed with the operations of PyTorch's kernels for CPUs, in their order: `fma` there is a product in
float64 here. The runs equal those of `masks.runs` of `masks.paste_as_torchvision` and `masks.paste_as_detectron2`.
"""

from collections.abc import Callable, Iterator
from functools import partial
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


class _Cells(NamedTuple):
    """The two cells of a mask between which each of c pixels lies along one axis, and their weights; on the device."""

    low: "torch.Tensor"  # (c,) int64
    high: "torch.Tensor"
    low_weight: "torch.Tensor"  # (c,) float32
    high_weight: "torch.Tensor"

    def take(self, index: "torch.Tensor | slice") -> "_Cells":
        """The cells of some of the pixels."""
        return _Cells(*(values[index] for values in self))


class _Lines(NamedTuple):
    """Columns, or rows, of all crops, one after the other; on the device."""

    owner: "torch.Tensor"  # (c,) int64: position of the object
    pixel: "torch.Tensor"  # (c,) int64: column or row of the image
    cells: _Cells


class _Columns(NamedTuple):
    """Columns of crops, one after the other; on the device."""

    lines: _Lines
    length: "torch.Tensor"  # (c,) int64: pixels of the column and an empty one
    first_row: "torch.Tensor"  # (c,) int64: position of its first row among the rows
    n_pixels: int  # of all columns


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


def _locate_torchvision_cells(
    pixel: "torch.Tensor", start: "torch.Tensor", scale: "torch.Tensor", n_cells: int
) -> _Cells:
    """Cells (below, above) and weights of pixels: interpolate() of a mask with a border of one empty cell."""
    position = _fma(scale, pixel.float() - start + 0.5, -0.5).clamp(min=0)
    cell = position.floor().long().clamp(max=n_cells - 1)
    weight = (position - cell.float()).clamp(0, 1)
    return _Cells(cell, (cell + 1).clamp(max=n_cells - 1), 1 - weight, weight)


def find_runs_as_detectron2(masks: "torch.Tensor", boxes: "torch.Tensor", shapes: NDArray[np.int64]) -> MaskRuns:
    """The same, where masks reach 0.5 as detectron2 stretches them."""
    import torch

    low = (boxes[:, :2].floor() - 1).clamp(min=0).long()
    high = torch.minimum((boxes[:, 2:].ceil() + 1).long(), torch.from_numpy(shapes[:, ::-1].copy()))
    axes = [
        _Axis(low[:, k], (high - low)[:, k].clamp(min=0), boxes[:, k], boxes[:, k + 2] - boxes[:, k]) for k in (0, 1)
    ]
    return _find_runs(masks, axes, _locate_detectron2_cells, [(torch.arange(len(boxes)), (0, 1, 2, 3))], is_above=False)


def _locate_detectron2_cells(
    pixel: "torch.Tensor", start: "torch.Tensor", extent: "torch.Tensor", n_cells: int
) -> _Cells:
    """The same of grid_sample() with zeros beyond the mask: they are the border of empty cells."""
    position = _fma((pixel.float() + 0.5 - start) / extent * 2 - 1 + 1, (n_cells - 2) / 2, -0.5)
    position = position.nan_to_num(nan=-2.0, posinf=n_cells, neginf=-2.0)
    cell = position.floor()
    weight = position - cell
    index = cell.long() + 1
    return _Cells(index.clamp(0, n_cells - 1), (index + 1).clamp(0, n_cells - 1), 1 - weight, weight)


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

    padded_masks = pad(masks, (1, 1, 1, 1))
    tables = [torch.zeros((0, 4), dtype=torch.int32, device=masks.device)]
    for objects, order in parts:
        visible = objects[(axes[0].size[objects] > 0) & (axes[1].size[objects] > 0)]
        if not len(visible):
            continue
        lines = [_spread(axis, visible, partial(locate_cells, n_cells=padded_masks.shape[-1]), masks) for axis in axes]
        for columns in _iterate_chunks(axes, visible, lines[0]):
            tables.append(_paste_columns(padded_masks, columns, lines[1], order, is_above))
    table = torch.cat(tables).cpu().numpy().astype(np.int64)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return MaskRuns(table[:, 1:], np.bincount(table[:, 0], minlength=len(masks)))


def _spread(axis: _Axis, objects: "torch.Tensor", locate_cells: Callable, masks: "torch.Tensor") -> _Lines:
    """The pixels of the crops of `objects` along an axis, one crop after the other, on the device of `masks`."""
    import torch

    crops = _Axis(*(values[objects].to(masks.device) for values in axis))
    n = int(axis.size[objects].sum())
    k = torch.arange(len(objects), device=masks.device).repeat_interleave(crops.size, output_size=n)
    pixel = torch.arange(n, device=masks.device) - (crops.size.cumsum(0) - crops.size)[k] + crops.first[k]
    return _Lines(objects.to(masks.device)[k], pixel, locate_cells(pixel, crops.offset[k], crops.scale[k]))


def _iterate_chunks(axes: list[_Axis], objects: "torch.Tensor", lines: _Lines) -> Iterator[_Columns]:
    """The columns `lines` of `objects` in chunks of at most CHUNK_PX pixels together, or of one column."""
    width, height = (axis.size[objects] for axis in axes)
    length = height.repeat_interleave(width) + 1  # an empty pixel after each column
    first_row = (height.cumsum(0) - height).repeat_interleave(width)
    ends = length.cumsum(0).numpy()
    start = 0
    while start < len(ends):
        n_before = int(ends[start] - length[start])
        stop = max(start + 1, int(np.searchsorted(ends, n_before + CHUNK_PX, side="right")))
        chunk = slice(start, stop)
        part = _Lines(lines.owner[chunk], lines.pixel[chunk], lines.cells.take(chunk))
        on_device = [values[chunk].to(lines.owner.device) for values in (length, first_row)]
        yield _Columns(part, on_device[0], on_device[1], int(ends[stop - 1]) - n_before)
        start = stop


def _paste_columns(
    masks: "torch.Tensor", columns: _Columns, rows: _Lines, order: tuple[int, ...], is_above: bool
) -> "torch.Tensor":
    """Runs (r, 4) int32 of some columns: object, column, first row, row after the last."""
    import torch

    lines = columns.lines
    length = columns.length
    pixels = torch.arange(columns.n_pixels, device=masks.device)
    column = torch.arange(len(length), device=masks.device).repeat_interleave(length, output_size=len(pixels))
    row = pixels - (length.cumsum(0) - length)[column]
    is_blank = row == (length - 1)[column]
    row += columns.first_row[column]
    row[is_blank] -= 1
    values = _interpolate(masks, lines.owner[column], rows.cells.take(row), lines.cells.take(column), order)
    is_inside = (values > 0.5 if is_above else values >= 0.5) & ~is_blank
    edges = (is_inside != torch.cat([is_inside.new_zeros(1), is_inside[:-1]])).nonzero()[:, 0]
    start = edges[::2]
    run_column = column[start]
    run_row = rows.pixel[row[start]]
    runs = [lines.owner[run_column], lines.pixel[run_column], run_row, run_row + edges[1::2] - start]
    return torch.stack(runs, dim=1).int()


def _interpolate(
    masks: "torch.Tensor", owner: "torch.Tensor", y: _Cells, x: _Cells, order: tuple[int, ...]
) -> "torch.Tensor":
    """Bilinear values (p,) of p pixels; the four cells (low or high along y, x) are added in `order`."""
    cells = [masks[owner, row, column] for row in (y.low, y.high) for column in (x.low, x.high)]
    if order == SEPARABLE:
        upper, lower = (_fma(left, x.low_weight, right * x.high_weight) for left, right in (cells[:2], cells[2:]))
        return _fma(upper, y.low_weight, lower * y.high_weight)
    y_weights = (y.low_weight, y.high_weight)
    weights = [y_weight * x_weight for y_weight in y_weights for x_weight in (x.low_weight, x.high_weight)]
    values = weights[order[0]] * cells[order[0]]
    for k in order[1:]:
        values = _fma(weights[k], cells[k], values)
    return values
