"""The length and the unit that stand at a scale bar, read by the bundled network `scale-text` from crops of lines.

The network is small and convolutional: numpy is enough for it, so that workers that survey files need no torch. Every
second column of a line gives the probabilities of the letters and of "no letter" (connectionist temporal
classification: Graves et al., ICML 2006).
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask import models

SCALE_TEXT_MODEL = models.BUNDLED / "scale-text"
WEIGHTS = "weights.safetensors"
HEIGHT_PX = 24  # of a line that goes into the network
MAX_WIDTH_PX = 200  # of such a line: ten wide letters
MARGIN_PX = 8  # added on both sides of a line, so that the network does not see beyond it
STRIDE_PX = 2  # between the columns that give probabilities
OTHER = "*"  # stands for every letter that no length contains
ALPHABET = "0123456789.nmµÅp" + OTHER  # spaces are left out, u is µ; the network's class 0 is "no letter"
MAX_POINT_RATIO = 0.02  # of the probabilities of a length with and without a decimal point: more, and it is in doubt
_UNITS_NM = {"nm": 1.0, "µm": 1e3, "mm": 1e6, "Å": 0.1, "pm": 1e-3}
_LENGTH = re.compile(r"(\d{1,4}(?:\.\d{1,2})?)(nm|µm|mm|Å|pm)")
_COMMON_DIGITS = {"1", "2", "5", "25", "15", "3", "4", "6", "8"}  # of the lengths that bars have: 20 nm, 0.25 µm


class TextReading(NamedTuple):
    """The text of one line."""

    text: str  # as read, without spaces: "200nm", "0.5µm"
    confidence: float  # probability of a length, the smallest of the letters of another text
    length_nm: float  # NaN where the text is no length


def read_lines(lines: Sequence[NDArray[np.float32]]) -> list[TextReading]:
    """What stands in each of `lines`: grey crops (h, w) in which the letters are brighter than what is around them."""
    weights = _load_weights()
    return [decode_columns(compute_probabilities(prepare_line(line), weights)) for line in lines]


def prepare_line(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """`line` as the network reads it: HEIGHT_PX high, from 0 (darkest) to 1 (brightest)."""
    method = cv2.INTER_AREA if line.shape[0] > HEIGHT_PX else cv2.INTER_LINEAR
    scaled = cv2.resize(line.astype(np.float32), (_find_width(line.shape), HEIGHT_PX), interpolation=method)
    low, high = np.percentile(scaled, [2, 98])
    levels = np.clip((scaled - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)
    return np.pad(levels, ((0, 0), (MARGIN_PX, MARGIN_PX + levels.shape[1] % STRIDE_PX)), mode="edge")


def compute_probabilities(line: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Probabilities (columns, letters and none) of the letters in a prepared line."""
    x = convolve(line[:, :, None] - np.float32(0.5), weights, 1)
    x = x.reshape(x.shape[0] // 2, 2, x.shape[1] // 2, 2, -1).max(axis=(1, 3))
    for layer in (2, 3):
        x = convolve(x, weights, layer)
        x = x.reshape(x.shape[0] // 2, 2, *x.shape[1:]).max(axis=1)
    scores = convolve(convolve(x, weights, 4), weights, 5)[0] @ weights["letters.weight"].T + weights["letters.bias"]
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def convolve(x: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]], layer: int) -> NDArray[np.float32]:
    """`x` (h, w, channels) after a layer of the network, positive; as wide as before.

    A kernel as high as `x` gives one row; the others keep the height.
    """
    kernel = weights[f"conv{layer}.weight"]
    n_out, height, width = kernel.shape[:3]  # then the channels
    dy = 0 if height == x.shape[0] else height // 2
    padded = np.pad(x, ((dy, dy), (width // 2, width // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
    rows, columns = windows.shape[:2]
    values = windows.reshape(rows * columns, -1) @ kernel.reshape(n_out, -1).T + weights[f"conv{layer}.bias"]
    return np.maximum(values, 0).reshape(rows, columns, n_out)


def decode_columns(probabilities: NDArray[np.float32]) -> TextReading:
    """The text of the likeliest letters in `probabilities` (columns, letters and none), equal neighbours once."""
    classes = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    starts = starts[classes[starts] > 0]
    text = "".join(ALPHABET[number - 1] for number in classes[starts])
    length_nm = parse_length_nm(text)
    if math.isfinite(length_nm):
        probability = compute_text_probability(probabilities, classes[starts])
        return TextReading(text, probability * _compute_point_certainty(probabilities, text, probability), length_nm)
    return TextReading(text, float(probabilities.max(axis=1)[starts].min(initial=1.0)) if text else 0.0, math.nan)


def _compute_point_certainty(probabilities: NDArray[np.float32], text: str, probability: float) -> float:
    """Whether the length in `text` (of this probability) has the decimal points of the line: 1 for yes, else 0.

    A point is a few pixels. A text in which one stands between two digits must be far less probable than the same
    without it, since the length would be ten or a hundred times smaller.
    """
    n_digits = len(text) - len(text.lstrip("0123456789"))
    with_point = [text[:k] + "." + text[k:] for k in range(1, n_digits)] if "." not in text else []
    rivals = [compute_text_probability(probabilities, np.array(encode_text(rival))) for rival in with_point]
    return float(max(rivals, default=0.0) <= MAX_POINT_RATIO * probability)


def compute_text_probability(probabilities: NDArray[np.float32], classes: NDArray[np.int64]) -> float:
    """Probability of the text of `classes`: the sum over all its alignments to the columns of `probabilities`."""
    states = np.zeros(2 * len(classes) + 1, np.int64)  # none, a letter, none, a letter, ..., none
    states[1::2] = classes
    may_skip = np.zeros(len(states), bool)  # of the "none" between two different letters
    may_skip[3::2] = states[3::2] != states[1:-2:2]
    forward = np.zeros(len(states))
    forward[:2] = probabilities[0, states[:2]]
    for column in probabilities[1:, states]:
        step = forward.copy()
        step[1:] += forward[:-1]
        step[2:] += np.where(may_skip[2:], forward[:-2], 0)
        forward = step * column
    return float(forward[-2:].sum())


def parse_length_nm(text: str) -> float:
    """The length in nm that `text` states, such as "0.5µm"; NaN where it states none."""
    match = _LENGTH.fullmatch(text)
    value = float(match[1]) if match else 0.0
    return value * _UNITS_NM[match[2]] if match and value > 0 else math.nan


def is_common_length(text: str) -> bool:
    """Whether bars often have the length in `text`: one of _COMMON_DIGITS times a power of ten, of any unit."""
    match = _LENGTH.fullmatch(text)
    return bool(match) and match[1].replace(".", "").strip("0") in _COMMON_DIGITS


def encode_text(text: str) -> list[int]:
    """Classes of the network that `text` has to give."""
    letters = text.replace(" ", "").replace("u", "µ").replace("\u03bc", "µ")
    return [1 + (ALPHABET.index(letter) if letter in ALPHABET else ALPHABET.index(OTHER)) for letter in letters]


def _find_width(shape: tuple[int, int]) -> int:
    return int(np.clip(round(shape[1] * HEIGHT_PX / shape[0]), 8, MAX_WIDTH_PX))


@lru_cache(maxsize=1)
def _load_weights() -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load_file

    model_card = models.read_model_card(SCALE_TEXT_MODEL)
    with models.blame_model(SCALE_TEXT_MODEL):
        stored = load_file(str(models.check_file(SCALE_TEXT_MODEL, WEIGHTS, model_card)))
    return {name: tensor.astype(np.float32) for name, tensor in stored.items()}
