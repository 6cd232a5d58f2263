"""Truth as COCO JSON: run-length encoding of masks as pycocotools reads it, and one image's annotations."""

from itertools import pairwise

import numpy as np

from emqa_dask.synthetic.sample import Mask, Sample

CATEGORIES = {"cavity": 1, "particle": 2, "column": 3, "grain": 4}


def compute_run_lengths(masks: list[Mask], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """COCO's uncompressed `counts` of non-empty masks: all runs in one int64 array, and where each mask's runs begin.

    A mask's runs alternate between 0 and 1, first of 0, over an image of `shape` in column-major order; they add up to
    its number of pixels. The second array has a last entry, the number of runs. No mask gives `[]` and `[0]`.
    """
    if not masks:
        return np.zeros(0, np.int64), np.zeros(1, np.int64)
    strips = []
    for _, _, crop in masks:
        strip = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
        strip[:, 1:-1] = crop.T
        strips.append(strip.ravel())
    begins = np.cumsum([0, *(len(strip) for strip in strips)])
    edges = np.diff(np.concatenate(strips))
    starts = np.flatnonzero(edges == 1)
    ends = np.flatnonzero(edges == -1)
    owner = np.searchsorted(begins, starts, side="right") - 1
    y0, x0, pitch = (np.array(v) for v in zip(*((y, x, crop.shape[0] + 2) for y, x, crop in masks)))
    column, row = np.divmod(starts - begins[owner], pitch[owner])
    ends = ends - starts
    starts = (x0[owner] + column) * shape[0] + y0[owner] + row
    ends += starts
    # A run that ends at the foot of a column goes on at the head of the next.
    is_joined = (ends[:-1] == starts[1:]) & (owner[:-1] == owner[1:])
    starts = starts[np.r_[True, ~is_joined]]
    owner = owner[np.r_[True, ~is_joined]]
    ends = ends[np.r_[~is_joined, True]]
    is_last_of_mask = np.r_[owner[:-1] != owner[1:], True]
    previous_ends = np.where(np.r_[True, is_last_of_mask[:-1]], 0, np.r_[0, ends[:-1]])
    tails = np.where(is_last_of_mask, shape[0] * shape[1] - ends, 0)
    runs = np.stack([starts - previous_ends, ends - starts, tails], axis=1)
    is_nonempty = np.ones(runs.shape, bool)
    is_nonempty[:, 2] = tails > 0
    counts = np.bincount(owner, weights=is_nonempty.sum(axis=1), minlength=len(masks)).astype(np.int64)
    return runs[is_nonempty], np.concatenate([[0], np.cumsum(counts)])


def encode_run_lengths(runs: np.ndarray, begins: np.ndarray) -> list[str]:
    """`compute_run_lengths` as COCO's compressed strings: differences to the run before last, 5 bits a character."""
    run_number = np.arange(len(runs)) - np.repeat(begins[:-1], np.diff(begins))
    deltas = runs.copy()
    later_runs = np.flatnonzero(run_number > 2)
    deltas[later_runs] -= runs[later_runs - 2]
    characters = []
    used = []
    has_bits = np.ones(len(deltas), bool)
    while has_bits.any():
        low = deltas & 31
        deltas = deltas >> 5
        used.append(has_bits)
        has_bits = has_bits & np.where(low & 16, deltas != -1, deltas != 0)
        characters.append((low + 32 * has_bits + 48).astype(np.uint8))
    if not used:
        return []
    filled = np.stack(used, axis=1)
    text = np.stack(characters, axis=1)[filled].tobytes().decode("ascii")
    cuts = np.concatenate([[0], np.cumsum(filled.sum(axis=1))])[begins]
    return [text[a:b] for a, b in pairwise(cuts)]


def decode_run_lengths(counts: str, shape: tuple[int, int]) -> np.ndarray:
    """The bool image of `shape` that `encode_run_lengths(compute_run_lengths(...))` came from."""
    runs: list[int] = []
    value = 0
    bits = 0
    for character in counts.encode("ascii"):
        six_bits = character - 48
        value |= (six_bits & 31) << bits
        bits += 5
        if six_bits & 32:
            continue
        if six_bits & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = 0
        bits = 0
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(shape[::-1]).T


def make_annotations(sample: Sample, image_id: int, first_id: int) -> list[dict]:
    """COCO annotations of `sample`: `bbox` as x, y, width, height; `segmentation` compressed; numbered from `first_id`.

    Columns of atoms keep their element in `name` and share the category `column`. No object gives an empty list.
    """
    shape = sample.image.shape
    counts = encode_run_lengths(*compute_run_lengths(sample.masks, shape))
    rows = []
    for number, (mask, box, label, text) in enumerate(
        zip(sample.masks, sample.boxes.tolist(), sample.labels, counts), start=first_id
    ):
        y0, x0 = box[:2]
        y1, x1 = box[2:]
        rows.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": CATEGORIES.get(label, CATEGORIES["column"]),
                "name": label,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(np.count_nonzero(mask[2])),
                "iscrowd": 0,
                "segmentation": {"size": list(shape), "counts": text},
            }
        )
    return rows
