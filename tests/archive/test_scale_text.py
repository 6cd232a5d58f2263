"""The network that reads the text of scale bars: its layers, its texts, and their probabilities."""

from itertools import groupby, product

import numpy as np
import pytest
from scipy.signal import correlate

from emqa_dask.archive.scale_bar.text_reader import (
    ALPHABET,
    compute_text_probability,
    convolve,
    decode_columns,
    encode_text,
    prepare_line,
    read_lines,
)


def make_columns(text: str, certainty: float = 0.9) -> np.ndarray:
    """Probabilities of columns in which the letters of `text` are likely; "_" is no letter."""
    columns = np.full((len(text), len(ALPHABET) + 1), (1 - certainty) / len(ALPHABET))
    numbers = [0 if letter == "_" else 1 + ALPHABET.index(letter) for letter in text]
    columns[np.arange(len(text)), numbers] = certainty
    return columns


@pytest.mark.parametrize(
    ("columns", "text", "length_nm"),
    [
        ("2_00_0__nnmm_", "200nm", 200), ("__0.5_µ_m", "0.5µm", 500), ("1110_", "10", np.nan), ("____", "", np.nan),
        ("5_*_nm", "5*nm", np.nan), ("3Å", "3Å", 0.3),
    ],
)  # fmt: skip
def test_equal_neighbours_are_one_letter(columns, text, length_nm):
    reading = decode_columns(make_columns(columns))
    assert reading.text == text
    assert reading.length_nm == pytest.approx(length_nm, nan_ok=True)


@pytest.mark.parametrize(("ratio", "is_certain"), [(0.001, True), (0.015, True), (0.025, False), (0.3, False)])
def test_a_length_is_uncertain_where_a_point_may_stand(ratio, is_certain):
    columns = make_columns("1_0nm", 0.9999)
    point = 1 + ALPHABET.index(".")
    columns[1, [0, point]] = np.array([1, ratio]) / (1 + ratio)
    reading = decode_columns(columns)
    assert (reading.text, reading.length_nm) == ("10nm", 10)
    assert (reading.confidence > 0.7) == is_certain


@pytest.mark.parametrize("classes", [[1], [1, 1], [1, 2], [2, 1, 2]])
def test_the_probability_of_a_text_sums_its_alignments(classes):
    columns = np.random.default_rng(5).dirichlet([1, 1, 1], 6)
    total = 0.0
    for path in product(range(3), repeat=len(columns)):
        if [number for number, _ in groupby(path) if number] == classes:
            total += float(np.prod(columns[np.arange(len(columns)), path]))
    assert compute_text_probability(columns, np.array(classes)) == pytest.approx(total)


@pytest.mark.parametrize(("kernel_shape", "padding"), [((3, 3), (1, 1)), ((6, 5), (0, 2))])
def test_a_layer_is_a_correlation(kernel_shape, padding):
    rng = np.random.default_rng(6)
    x = rng.normal(size=(6, 11, 2))
    kernels = rng.normal(size=(3, *kernel_shape, 2))
    bias = rng.normal(size=3)
    padded = np.pad(x, [(p, p) for p in padding] + [(0, 0)])
    layer = np.concatenate([correlate(padded, kernel, mode="valid") for kernel in kernels], axis=2) + bias
    result = convolve(x, {"conv4.weight": kernels, "conv4.bias": bias}, 4)
    assert result == pytest.approx(np.maximum(layer, 0))


def test_spellings_of_micro_are_one_letter():
    assert encode_text("2 um") == encode_text("2µm") == encode_text("2 \u03bcm")


@pytest.mark.parametrize("shape", [(9, 30), (24, 61), (80, 90), (5, 400)])
def test_lines_of_any_shape_are_read(shape):
    line = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    prepared = prepare_line(line)
    assert prepared.shape[0] == 24
    assert prepared.shape[1] % 2 == 0
    assert prepared.shape[1] <= 200 + 2 * 8 + 1
    assert len(read_lines([line, line])) == 2
