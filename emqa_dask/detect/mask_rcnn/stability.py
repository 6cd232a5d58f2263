"""Stability of detections: whether the network finds them again in a mirrored, smaller copy of the image."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emqa_dask import boxes as bx
from emqa_dask.detect.mask_rcnn.network import Network, Predictions
from emqa_dask.detect.mask_rcnn.scaling import resize_piece

if TYPE_CHECKING:
    import torch

MIN_COPY_PX = 32  # a copy of fewer rows or columns shows no object


def check_stability(network: Network, scale: float) -> Network:
    """`network`, whose predictions have the stability of each object.

    A second pass finds boxes in a mirrored copy whose sides are `scale` times those of the image: it costs about
    scale^2 of a pass. 0: no second pass; the stability is NaN.
    """
    if scale == 0:
        return network
    predict_boxes = network.predict_boxes or network.predict_objects

    def predict_objects(images: list[NDArray]) -> list[Predictions]:
        predictions = network.predict_objects(images)
        copies = [make_copy(image, scale) for image in images]
        if min(copies[0].shape) < MIN_COPY_PX:
            return predictions
        results = []
        for image, copy, objects, copied_objects in zip(
            images, copies, predictions, predict_boxes(copies), strict=True
        ):
            boxes = restore_mirrored_boxes(copied_objects.boxes.double().numpy(), copy.shape, image.shape)
            stability = compute_stability(
                objects.boxes.double().numpy(), objects.scores.numpy(), boxes, copied_objects.scores.numpy()
            )
            results.append(objects._replace(stability=_convert_to_tensor(stability)))
        return results

    return network._replace(predict_objects=predict_objects)


def make_copy(image: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """The mirror image (left and right swapped) of an image (h, w), its sides multiplied by `scale`."""
    return np.ascontiguousarray(resize_piece(image, scale)[:, ::-1])


def restore_mirrored_boxes(boxes: NDArray, copy_shape: tuple[int, int], shape: tuple[int, int]) -> NDArray[np.float64]:
    """Boxes (n, 4), x0, y0, x1, y1, of a copy of `copy_shape` in the coordinates of its image of `shape`."""
    y_scale, x_scale = (n / copied_n for n, copied_n in zip(shape, copy_shape))
    mirrored = boxes[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [copy_shape[1], 0, copy_shape[1], 0]
    return mirrored * [x_scale, y_scale, x_scale, y_scale]


def compute_stability(
    boxes: NDArray, scores: NDArray, copied_boxes: NDArray, copied_scores: NDArray
) -> NDArray[np.float64]:
    """Stability (n,) of n boxes, 0 to 1: the largest product of IoU and score ratio over the m boxes of the copy.

    boxes: (n, 4), x0, y0, x1, y1; scores: (n,). The score ratio is that of the copied score to the own one, at most 1.
    A box that meets no box of the copy has 0.
    """
    stability = np.zeros(len(boxes))
    i, j, iou = bx.find_overlaps(boxes[:, [1, 0, 3, 2]], copied_boxes[:, [1, 0, 3, 2]], 1e-6)
    np.maximum.at(stability, i, iou * np.minimum(copied_scores[j] / scores[i], 1))
    return stability


def _convert_to_tensor(values: NDArray) -> "torch.Tensor":
    import torch

    return torch.from_numpy(values)
