"""Scores of a network on images with known masks: F1 of boxes, average precision of masks at IoU 0.5."""

import contextlib
import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from emqa_dask import boxes
from emqa_dask.coco.masks import Mask

if TYPE_CHECKING:
    import torch

THRESHOLDS = (*(round(0.05 * k, 2) for k in range(1, 20)), 0.97, 0.98, 0.99)


class GroundTruth(NamedTuple):
    """An image and all its objects."""

    image: np.ndarray  # (h, w) float32, normalised
    masks: list[Mask]
    labels: list[int]  # from 1


class Detections(NamedTuple):
    """Detections of a network in an image, best first."""

    boxes: np.ndarray  # (n, 4) float64: y0, x0, y1, x1, px
    scores: np.ndarray  # (n,)
    labels: np.ndarray  # (n,) int64
    masks: list[dict]  # COCO RLE of the whole image


def detect_objects(net: "torch.nn.Module", image: np.ndarray, *, masks: bool = True) -> Detections:
    """Detections of `net` (in evaluation mode) on a normalised float32 image (h, w); one mask in memory at a time."""
    import torch
    from pycocotools import mask as coco_mask
    from torchvision.models.detection.roi_heads import paste_masks_in_image
    from torchvision.models.detection.transform import resize_boxes

    device = next(net.parameters()).device
    with torch.inference_mode():
        batch, _ = net.transform([torch.from_numpy(np.ascontiguousarray(image, np.float32))[None].to(device)])
        features = net.backbone(batch.tensors)
        proposals, _ = net.rpn(batch, features)
        outputs = net.roi_heads(features, proposals, batch.image_sizes)[0][0]
        boxes_xyxy = resize_boxes(outputs["boxes"], batch.image_sizes[0], image.shape).cpu()
        encoded = []
        for k in range(len(boxes_xyxy) if masks else 0):
            pasted = (
                paste_masks_in_image(outputs["masks"][k : k + 1].cpu(), boxes_xyxy[k : k + 1], image.shape)[0, 0] > 0.5
            )
            encoded.append(coco_mask.encode(np.asfortranarray(pasted.numpy().astype(np.uint8))))
        scores = outputs["scores"].cpu().numpy()
        labels = outputs["labels"].cpu().numpy()
    return Detections(boxes_xyxy.numpy()[:, [1, 0, 3, 2]].astype(np.float64), scores, labels, encoded)


def compute_true_boxes(masks: Sequence[Mask]) -> np.ndarray:
    """Tight boxes (n, 4) float64 of masks that are cut to their objects."""
    return np.array([(y, x, y + m.shape[0], x + m.shape[1]) for y, x, m in masks], np.float64).reshape(-1, 4)


def count_matches(
    detections: Sequence[Detections], truths: Sequence[GroundTruth], iou: float, threshold: float
) -> np.ndarray:
    """Each image's tp, fp and fn (n, 3) int64 of boxes at a score threshold, matched greedily."""
    rows = []
    for detected, truth in zip(detections, truths):
        match = boxes.match_boxes(detected.boxes[detected.scores >= threshold], compute_true_boxes(truth.masks), iou)
        rows.append((match.tp, match.fp, match.fn))
    return np.array(rows, np.int64).reshape(-1, 3)


def compute_f1(counts: np.ndarray) -> np.ndarray:
    """F1 (n,) of tp, fp, fn (n, 3): 1 for an image without objects and detections."""
    tp, fp, fn = counts.T
    total = 2 * tp + fp + fn
    return np.where(total > 0, 2 * tp / np.maximum(total, 1), 1.0)


def select_threshold(detections: Sequence[Detections], truths: Sequence[GroundTruth], iou: float = 0.5) -> float:
    """The score threshold of `THRESHOLDS` with the highest mean F1 of the images' boxes; of equals the lowest."""
    means = [compute_f1(count_matches(detections, truths, iou, threshold)).mean() for threshold in THRESHOLDS]
    return THRESHOLDS[int(np.argmax(means))]


def compute_mask_ap50(detections: Sequence[Detections], truths: Sequence[GroundTruth]) -> float:
    """COCO's average precision of masks at IoU 0.5, mean over classes, 1,000 detections an image; NaN without truth."""
    from pycocotools import mask as coco_mask
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations = []
    results = []
    for number, (detected, truth) in enumerate(zip(detections, truths), start=1):
        for (y, x, pixels), label in zip(truth.masks, truth.labels):
            image_mask = np.zeros(truth.image.shape, np.uint8, order="F")
            image_mask[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels
            rle = coco_mask.encode(image_mask)
            row = {"id": len(annotations) + 1, "image_id": number, "category_id": int(label), "segmentation": rle}
            annotations.append({**row, "iscrowd": 0, "area": int(pixels.sum())})
        for score, label, rle in zip(detected.scores, detected.labels, detected.masks):
            row = {"image_id": number, "category_id": int(label), "segmentation": rle, "score": float(score)}
            results.append(row)
    if not annotations:
        return np.nan
    if not results:
        return 0.0
    classes = [{"id": int(k), "name": str(k)} for k in sorted({a["category_id"] for a in annotations})]
    images = [{"id": k, "height": t.image.shape[0], "width": t.image.shape[1]} for k, t in enumerate(truths, start=1)]
    with contextlib.redirect_stdout(io.StringIO()):
        coco_truth = COCO()
        coco_truth.dataset = {"images": images, "annotations": annotations, "categories": classes}
        coco_truth.createIndex()
        evaluation = COCOeval(coco_truth, coco_truth.loadRes(results), "segm")
        evaluation.params.iouThrs = np.array([0.5])
        evaluation.params.maxDets = [1, 100, 1000]
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    return float(precision[precision > -1].mean()) if (precision > -1).any() else np.nan


def evaluate_network(
    net: "torch.nn.Module",
    truths: Sequence[GroundTruth],
    threshold: float | None = None,
    detect: Callable[["torch.nn.Module", np.ndarray], Detections] = detect_objects,
) -> dict[str, float]:
    """Scores of `net` on images, for both IoU 0.1 and 0.5, with `mask_ap50` and the score threshold of the F1.

    `image_f1_iou_*` is the mean of the images' F1, `box_f1_iou_*` that of all their boxes together, dominated by
    crowded images. The threshold is that of the best mean F1 at IoU 0.5 on these images, unless given.
    """
    was_training = net.training
    net.eval()
    detections = [detect(net, truth.image) for truth in truths]
    net.train(was_training)
    threshold = select_threshold(detections, truths) if threshold is None else threshold
    f1_scores = {}
    for iou in (0.1, 0.5):
        counts = count_matches(detections, truths, iou, threshold)
        f1_scores[f"image_f1_iou_{iou}"] = float(compute_f1(counts).mean())
        f1_scores[f"box_f1_iou_{iou}"] = float(compute_f1(counts.sum(axis=0, keepdims=True))[0])
    return {
        **f1_scores,
        "mask_ap50": compute_mask_ap50(detections, truths),
        "score_threshold": threshold,
        "n_images": len(truths),
        "n_objects": sum(len(truth.masks) for truth in truths),
    }
