"""Detector: micrographs of any size and dtype in, one table of detections each out, in batches that fit."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from emqa_dask import backend
from emqa_dask.detect.mask_rcnn import masks as mk
from emqa_dask.detect.mask_rcnn.detections_table import make_table
from emqa_dask.detect.mask_rcnn.detector_card import DetectorCard
from emqa_dask.detect.mask_rcnn.embedding import average_embeddings
from emqa_dask.detect.mask_rcnn.image_result import ImageResult
from emqa_dask.detect.mask_rcnn.merge import Window, find_claimed_boxes, find_doubles, make_tiles
from emqa_dask.detect.mask_rcnn.network import Network, Predictions
from emqa_dask.detect.mask_rcnn.scale_search import search_scales
from emqa_dask.detect.mask_rcnn.scaling import compute_scaled_shape, resize_piece, restore_boxes
from emqa_dask.detect.mask_rcnn.selection import select_by_expected_f1
from emqa_dask.detect.mask_rcnn.threads import make_submit
from emqa_dask.detect.normalise import IntensityLimits, compute_intensity_limits, normalise
from emqa_dask.pixel_types import convert_to_real

if TYPE_CHECKING:
    import torch

NO_VALUES = (np.zeros(0), np.zeros(0))  # class margins and stability of no objects
BATCH_PX = {"cpu": 1 << 20, "cuda": 1 << 24}  # pixels, after scaling, that go through the network together


class _Piece(NamedTuple):
    image: int
    tile: int
    window: Window
    limits: IntensityLimits
    scale: float  # at which the network sees the piece

    @property
    def shape(self) -> tuple[int, int]:
        return self.window.y1 - self.window.y0, self.window.x1 - self.window.x0


class _Objects(NamedTuple):
    """What one piece gave, in the coordinates of its image."""

    boxes: NDArray  # (n, 4) y0, x0, y1, x1
    scores: NDArray
    classes: NDArray
    tiles: NDArray
    is_centre_in_core: NDArray
    class_margins: NDArray
    stability: NDArray
    runs: list[mk.Runs]
    is_capped: bool
    embedding: NDArray[np.float32]
    area_px: int


class Detector:
    """A Mask R-CNN, loaded. `model_card` says what it is; `batch_px` how much goes through it at once."""

    def __init__(self, model_card: DetectorCard, network: Network, device: str):
        self.card = model_card
        self.device = device
        self.batch_px = BATCH_PX[device]
        self._network = network

    def detect(
        self,
        images: Sequence[np.ndarray],
        nm_per_pixel: float | ArrayLike | None = None,
        scale: float | None = None,
    ) -> list[pd.DataFrame]:
        """One table per image, in order: rows of tables.DETECTIONS without micrograph_id, best score first.

        `images` are (h, w) of any real dtype and of any sizes; they are not changed. Each is normalised by itself as
        the card says; NaN pixels take the median. Those above the card's `tile_px` are cut into tiles that overlap by
        twice its `compute_halo`: objects up to that diameter have their whole mask. What stands beside an image, and in
        which order, changes its rows by rounding at most. Images without contrast, without a finite pixel, without
        pixels, and such that the network's scaling would leave no pixel of, have no rows.

        Boxes are half-open px, y_px and x_px the middle of the box, area_px, circularity and diameter_px the mask's
        (see masks.measure; NaN but for the area when no pixel reaches 0.5), polarity 0. `nm_per_pixel` is one number,
        or one per image; None and NaN leave diameter_nm NaN. `scale` is that at which the network sees the images: 0.5
        finds objects that are large or drown in noise, 2 small ones; None searches the card's `scales` for the best of
        each image (see scale_search). With `selection = "expected_f1"` in [output] of
        the card only as many of the best detections are given as have the highest expected F1 (see selection); this
        F1 is `expected_f1` of examine(). `attrs["is_capped"]` says whether the card's
        `max_detections` cut the list. When memory runs out the batch is halved, and stays so; MemoryError when one
        image, or tile, alone is too large. Raises ValueError for images that are not two-dimensional and real.
        """
        return [result.detections for result in self.examine(images, nm_per_pixel, scale)]

    def examine(
        self,
        images: Sequence[np.ndarray],
        nm_per_pixel: float | ArrayLike | None = None,
        scale: float | None = None,
    ) -> list[ImageResult]:
        """Detections and embedding of every image, in order; arguments, rows and errors are those of detect()."""
        images = [convert_to_real(np.asarray(image)) for image in images]
        sides = np.broadcast_to(np.nan if nm_per_pixel is None else np.asarray(nm_per_pixel, float), len(images))

        def examine(numbers: list[int], at_scale: float) -> list[ImageResult]:
            return self._examine_at([images[k] for k in numbers], [float(sides[k]) for k in numbers], at_scale)

        if scale is not None:
            return examine(list(range(len(images))), float(scale))
        return search_scales(examine, len(images), self.card.scales)

    def _examine_at(self, images: list[np.ndarray], sides: list[float], scale: float) -> list[ImageResult]:
        """Results of images that the network sees at one scale."""
        pieces = [self._cut_pieces(k, image, scale) for k, image in enumerate(images)]
        waiting_parts: list[list[_Objects]] = [[] for _ in images]
        results: list[ImageResult | None] = [None] * len(images)

        def finish(batch: list[_Piece], predictions: list[Predictions]) -> None:
            for piece, image_predictions in zip(batch, predictions):
                k = piece.image
                waiting_parts[k].append(self._collect_objects(piece, image_predictions))
                if len(waiting_parts[k]) == len(pieces[k]):
                    results[k] = self._make_result(waiting_parts[k], images[k].shape, sides[k], scale)
                    waiting_parts[k] = []

        for k, parts in enumerate(pieces):
            if not parts:
                results[k] = self._make_result([], images[k].shape, sides[k], scale)
        self._run(images, [piece for parts in pieces for piece in parts], finish)
        return results

    def _cut_pieces(self, k: int, image: np.ndarray, scale: float) -> list[_Piece]:
        intensity_limits = compute_intensity_limits(image, self.card.low_percentile, self.card.high_percentile)
        if not intensity_limits.high > intensity_limits.low:
            return []
        tile_windows = make_tiles(image.shape, round(self.card.tile_px / scale), round(self.card.halo_px / scale))
        pieces = [_Piece(k, tile, window, intensity_limits, scale) for tile, window in enumerate(tile_windows)]
        return [piece for piece in pieces if self._count_network_pixels(piece) > 0]

    def _count_network_pixels(self, piece: _Piece) -> int:
        return math.prod(self._network.compute_network_shape(compute_scaled_shape(piece.shape, piece.scale)))

    def _run(self, images: list[np.ndarray], pieces: list[_Piece], finish: Callable) -> None:
        """The network on all pieces; the batch after is normalised and the one before finished while it runs."""

        def prepare(batch: list[_Piece]) -> list[np.ndarray]:
            return [self._normalise_piece(images[piece.image], piece) for piece in batch]

        with make_submit(self.device) as submit:
            batches = self._iterate_batches(pieces)
            batch = next(batches, None)
            pending = None
            ahead = submit(prepare, batch) if batch else None
            while batch:
                pixels = ahead.result()
                current = batch
                batch = next(batches, None)
                ahead = submit(prepare, batch) if batch else None
                predictions = self._predict_objects(current, pixels)
                if pending is not None:
                    pending.result()
                pending = submit(finish, current, predictions)
            if pending is not None:
                pending.result()

    def _normalise_piece(self, image: np.ndarray, piece: _Piece) -> np.ndarray:
        window = piece.window
        pixels = image[window.y0 : window.y1, window.x0 : window.x1]
        normalised = normalise(pixels, self.card.low_percentile, self.card.high_percentile, piece.limits)
        return resize_piece(normalised, piece.scale)

    def _iterate_batches(self, pieces: list[_Piece]) -> Iterator[list[_Piece]]:
        """Pieces of one size and scale together, as many as `batch_px` holds at that moment, one at least."""
        pieces_by_size: dict[tuple, list[_Piece]] = {}
        for piece in pieces:
            pieces_by_size.setdefault((*piece.shape, piece.scale), []).append(piece)
        for equal_pieces in pieces_by_size.values():
            while equal_pieces:
                n = max(1, self.batch_px // self._count_network_pixels(equal_pieces[0]))
                yield equal_pieces[:n]
                equal_pieces = equal_pieces[n:]

    def _predict_objects(self, pieces: list[_Piece], pixels: list[np.ndarray]) -> list[Predictions]:
        try:
            with backend.guard_device():
                predictions = self._network.predict_objects(pixels)
                return self._find_runs(pieces, predictions) if self._network.find_runs else predictions
        except Exception as error:
            if not _is_out_of_memory(error):
                raise
            if len(pixels) == 1:
                height, width = pixels[0].shape
                raise MemoryError(
                    f"an image or tile of {height} x {width} px alone takes more memory than there is; "
                    f"give [input] tile_px of the model's card below {max(height, width)}: {error}"
                ) from error
        backend.free_device_memory()  # here the exception is gone, and what its traceback held
        self.batch_px = max(1, self.batch_px // 2)
        n_half = len(pixels) // 2
        return self._predict_objects(pieces[:n_half], pixels[:n_half]) + self._predict_objects(
            pieces[n_half:], pixels[n_half:]
        )

    def _find_runs(self, pieces: list[_Piece], predictions: list[Predictions]) -> list[Predictions]:
        """`predictions` of pieces with the runs of their masks, all found together on the network's device."""
        import torch

        boxes = [restore_boxes(objects.boxes, piece.shape, piece.scale) for piece, objects in zip(pieces, predictions)]
        shapes = np.repeat([piece.shape for piece in pieces], [len(values) for values in boxes], axis=0)
        masks = torch.cat([objects.masks for objects in predictions])
        runs = iter(self._network.find_runs(masks, torch.cat(boxes), shapes).split())
        return [
            objects._replace(
                masks=masks.new_zeros((0, *masks.shape[1:])), runs=list(itertools.islice(runs, len(values)))
            )
            for objects, values in zip(predictions, boxes)
        ]

    def _collect_objects(self, piece: _Piece, predictions: Predictions) -> _Objects:
        """The predicted objects in coordinates of the image that `piece` is a part of; masks as runs, not as pixels."""
        window = piece.window
        piece_boxes = restore_boxes(predictions.boxes, piece.shape, piece.scale)
        boxes = piece_boxes.double().numpy()[:, [1, 0, 3, 2]] + [window.y0, window.x0, window.y0, window.x0]
        keep = np.flatnonzero(find_claimed_boxes(boxes, window))
        runs = self._list_runs(predictions, piece_boxes, keep, piece.shape)
        shift = np.array([window.x0, window.y0, window.y0])
        centre = (boxes[keep, :2] + boxes[keep, 2:]) / 2
        is_centre_in_core = ((centre >= window.core_box[:2]) & (centre < window.core_box[2:])).all(axis=1)
        return _Objects(
            boxes[keep],
            predictions.scores.double().numpy()[keep],
            predictions.classes.numpy()[keep],
            np.full(len(keep), piece.tile),
            is_centre_in_core,
            _select_values(predictions.class_margins, keep),
            _select_values(predictions.stability, keep),
            [run + shift for run in runs],
            len(predictions.scores) >= self.card.max_detections,
            predictions.embedding.numpy(),
            math.prod(piece.shape),
        )

    def _list_runs(
        self, predictions: Predictions, boxes: "torch.Tensor", keep: NDArray, shape: tuple[int, int]
    ) -> Iterator[mk.Runs]:
        """Runs of the objects `keep` in a piece of `shape`, one after the other."""
        if predictions.runs is not None:
            return (predictions.runs[k] for k in keep)
        crops = self._network.paste_masks(predictions.masks[keep], boxes[keep], shape)
        return (mk.runs(crop) for crop in crops)

    def _make_result(
        self, parts: list[_Objects], shape: tuple[int, int], nm_per_pixel: float, scale: float
    ) -> ImageResult:
        embedding = average_embeddings([part.embedding for part in parts], [part.area_px for part in parts])
        detections, n_selected, expected_f1 = self._select_detections(parts, shape, nm_per_pixel)
        mean_score = float(detections["score"].head(n_selected).mean()) if n_selected else 0.0
        return ImageResult(detections, embedding, expected_f1, n_selected, mean_score, scale)

    def _select_detections(
        self, parts: list[_Objects], shape: tuple[int, int], nm_per_pixel: float
    ) -> tuple[pd.DataFrame, int, float]:
        """The image's table, without what several tiles found; how many are selected, and their expected F1."""
        parts = sorted(parts, key=lambda part: part.tiles[0] if len(part.tiles) else -1)
        empty = (np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0, int), np.zeros(0, bool), *NO_VALUES)
        columns = [np.concatenate(values) for values in zip(empty, *(part[:7] for part in parts))]
        boxes, scores, classes = columns[:3]
        tiles, is_centre_in_core = columns[3:5]
        class_margins, stability = columns[5:]
        runs = [run for part in parts for run in part.runs]
        has_one_class = self.card.architecture.get("nms_across_classes", False)
        double_classes = np.zeros_like(classes) if has_one_class else classes
        order = np.flatnonzero(~find_doubles(boxes, scores, double_classes, tiles, is_centre_in_core))
        order = order[np.argsort(-scores[order], kind="stable")][: self.card.max_detections]
        n_selected, expected_f1 = select_by_expected_f1(scores[order])
        is_capped = any(part.is_capped for part in parts) or len(order) >= self.card.max_detections
        if self.card.selection == "expected_f1":
            order = order[:n_selected]
        boxes = boxes[order]
        runs = [runs[k] for k in order]
        values = {"score": scores[order], "class_margin": class_margins[order], "stability": stability[order]}
        rows = make_table(self.card, boxes, values, classes[order], runs, shape, nm_per_pixel)
        rows.attrs["is_capped"] = bool(is_capped)
        return rows, n_selected, expected_f1


def _select_values(values: "torch.Tensor | None", keep: NDArray) -> NDArray[np.float64]:
    """Values of the objects `keep` (n,); NaN where they were not measured."""
    return np.full(len(keep), np.nan) if values is None else values.double().numpy()[keep]


def _is_out_of_memory(error: Exception) -> bool:
    """A GPU's memory or the host's, as numpy and torch's CPU allocator say it."""
    return isinstance(error, MemoryError) or backend.is_out_of_memory(error) or "can't allocate memory" in str(error)
