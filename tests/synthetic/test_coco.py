"""COCO run-length encoding: equal to a plain port of the reference, and decoded to the mask it came from."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.synthetic import coco
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.synthetic.sample import merge_masks, trim_mask


def reference(mask):
    """cocoapi's rleEncode and rleToString, one pixel and one character at a time."""
    counts = []
    previous = 0
    run = 0
    for value in mask.ravel(order="F"):
        if value != previous:
            counts.append(run)
            previous = value
            run = 0
        run += 1
    counts.append(run)
    text = ""
    for i, count in enumerate(counts):
        x = count - (counts[i - 2] if i > 2 else 0)
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return counts, text


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40), st.floats(0.02, 1.0))
def test_encoded_runs_equal_the_reference_and_decode_exactly(seed, height, width, filled):
    rng = np.random.default_rng(seed)
    shape = (height, width)
    masks = []
    while len(masks) < 3:
        size = rng.integers(1, 30, 2)
        corner = rng.integers(-10, [height, width])
        mask = trim_mask(*corner, rng.random(size) < filled, shape)
        masks += [mask] if mask is not None else [trim_mask(0, 0, np.ones(shape, bool), shape)]
    runs, begins = coco.compute_run_lengths(masks, shape)
    for mask, text, a, b in zip(masks, coco.encode_run_lengths(runs, begins), begins, begins[1:]):
        whole = merge_masks([mask], shape)
        counts, expected = reference(whole)
        assert runs[a:b].tolist() == counts
        assert text == expected
        np.testing.assert_array_equal(coco.decode_run_lengths(text, shape), whole)


def test_no_mask_gives_no_string():
    assert coco.encode_run_lengths(*coco.compute_run_lengths([], (5, 5))) == []


def test_annotations_say_what_the_sample_holds():
    sample = make_sample("cavity-tem", np.random.default_rng(3), (128, 160))
    rows = coco.make_annotations(sample, 7, 100)
    assert [row["id"] for row in rows] == list(range(100, 100 + len(sample.boxes)))
    for row, mask, (y0, x0, y1, x1) in zip(rows, sample.masks, sample.boxes):
        assert row["image_id"] == 7
        assert row["bbox"] == [x0, y0, x1 - x0, y1 - y0]
        assert row["area"] == mask[2].sum()
        assert row["segmentation"]["size"] == [128, 160]
