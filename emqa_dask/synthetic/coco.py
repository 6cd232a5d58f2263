"""Truth as COCO JSON: run-length encoding of masks as pycocotools reads it, and one image's annotations."""

import numpy as np

from emqa_dask.synthetic.sample import Mask, Sample

CATEGORIES = {"cavity": 1, "particle": 2, "column": 3, "grain": 4}


def run_lengths(mask: Mask, shape: tuple[int, int]) -> np.ndarray:
    """Lengths of alternating runs of 0 and 1 over an image of `shape` in column-major order, the first of 0: int64.

    The uncompressed `counts` of COCO; their sum is the image's number of pixels. An empty mask gives one run.
    """
    y0, x0, crop = mask
    edges = np.diff(np.pad(crop.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    columns, starts = np.nonzero(edges == 1)
    _, ends = np.nonzero(edges == -1)
    first = (x0 + columns) * shape[0] + y0
    bounds = np.stack([first + starts, first + ends], axis=1).ravel()
    # A run that ends at the foot of a column goes on at the head of the next: drop the pair of equal bounds.
    joined = np.flatnonzero(bounds[1:-1:2] == bounds[2::2])
    bounds = np.delete(bounds, np.concatenate([2 * joined + 1, 2 * joined + 2]))
    runs = np.diff(np.concatenate([[0], bounds, [shape[0] * shape[1]]]))
    return runs[:-1] if len(runs) > 1 and runs[-1] == 0 else runs


def encode(runs: np.ndarray) -> str:
    """Run lengths as COCO's compressed string: differences to the run before last, 5 bits a character, LEB128-like."""
    deltas = runs.astype(np.int64)
    deltas[3:] = runs[3:] - runs[1:-2]
    characters, used = [], []
    more = np.ones(len(deltas), bool)
    while more.any():
        low, rest = deltas & 31, deltas >> 5
        used.append(more)
        more = more & np.where(low & 16, rest != -1, rest != 0)
        characters.append(low + 32 * more + 48)
        deltas = rest
    grid, filled = np.stack(characters, axis=1), np.stack(used, axis=1)
    return grid[filled].astype(np.uint8).tobytes().decode("ascii")


def decode(counts: str, shape: tuple[int, int]) -> np.ndarray:
    """The bool image of `shape` that `encode(run_lengths(...))` came from."""
    runs: list[int] = []
    value, bits = 0, 0
    for character in counts.encode("ascii"):
        piece = character - 48
        value |= (piece & 31) << bits
        bits += 5
        if piece & 32:
            continue
        if piece & 16:
            value -= 1 << bits
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value, bits = 0, 0
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(shape[::-1]).T


def annotations(sample: Sample, image_id: int, first_id: int) -> list[dict]:
    """COCO annotations of `sample`: `bbox` as x, y, width, height; `segmentation` compressed; numbered from `first_id`.

    Columns of atoms keep their element in `name` and share the category `column`. No object gives an empty list.
    """
    shape = sample.image.shape
    rows = []
    for number, (mask, box, label) in enumerate(zip(sample.masks, sample.boxes, sample.labels), start=first_id):
        y0, x0, y1, x1 = box.tolist()
        rows.append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": CATEGORIES.get(label, CATEGORIES["column"]),
                "name": label,
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                "area": int(mask[2].sum()),
                "iscrowd": 0,
                "segmentation": {"size": list(shape), "counts": encode(run_lengths(mask, shape))},
            }
        )
    return rows
