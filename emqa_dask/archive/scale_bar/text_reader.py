"""The length and the unit that stand at a scale bar, read by the bundled network `scale-text` from crops of lines.

The network has two layers and sees a window around each column of a line: numpy is enough for it, so that workers that
survey files need no torch.
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
HEIGHT_PX = 20  # of a line that goes into the network
MAX_WIDTH_PX = 150  # of such a line: 8 wide letters
WINDOW_PX = 17  # width of what the network sees around each column: an m
MIN_PITCH_PX = 4.0  # between the middles of neighbouring letters
OTHER = "*"  # stands for every letter that no length contains
ALPHABET = "0123456789.nmµÅp" + OTHER  # spaces are left out, u is µ; the network's class 0 is "no letter"
_UNITS_NM = {"nm": 1.0, "µm": 1e3, "mm": 1e6, "Å": 0.1, "pm": 1e-3}
_LENGTH = re.compile(r"(\d{1,4}(?:\.\d{1,2})?)(nm|µm|mm|Å|pm)")
_COMMON_DIGITS = {"1", "2", "5", "25", "15", "3", "4", "6", "8"}  # of the lengths that bars have: 20 nm, 0.25 µm


class TextReading(NamedTuple):
    """The text of one line."""

    text: str  # as read, without spaces: "200nm", "0.5µm"
    confidence: float  # smallest probability of its letters
    length_nm: float  # NaN where the text is no length


class _Run(NamedTuple):
    """Neighbouring columns in which one letter is the likeliest."""

    number: int  # its class
    centre: float  # px
    mass: float  # sum of its probabilities
    probability: float  # the largest of them


def read_lines(lines: Sequence[NDArray[np.float32]]) -> list[TextReading]:
    """What stands in each of `lines`: grey crops (h, w) in which the letters are brighter than what is around them."""
    weights = _load_weights()
    windows = [cut_windows(prepare_line(line)) for line in lines]
    return [decode_columns(compute_probabilities(of_line, weights)) for of_line in windows]


def prepare_line(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """`line` as the network reads it: HEIGHT_PX high, from 0 (darkest) to 1 (brightest)."""
    method = cv2.INTER_AREA if line.shape[0] > HEIGHT_PX else cv2.INTER_LINEAR
    scaled = cv2.resize(line.astype(np.float32), (_find_width(line.shape), HEIGHT_PX), interpolation=method)
    low, high = np.percentile(scaled, [2, 98])
    return np.clip((scaled - low) / max(high - low, 1e-6), 0, 1).astype(np.float32)


def cut_windows(line: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network sees around each column of a prepared line (20, w): (w, 20 * 17), its mean subtracted."""
    margin = WINDOW_PX // 2
    padded = np.pad(line, ((0, 0), (margin, margin)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW_PX, axis=1)
    windows = windows.transpose(1, 0, 2).reshape(line.shape[1], -1)
    return windows - windows.mean(axis=1, keepdims=True)


def compute_probabilities(
    windows: NDArray[np.float32], weights: Mapping[str, NDArray[np.float32]]
) -> NDArray[np.float32]:
    """Probabilities (n, letters and none) of the letter in the middle of each of n windows."""
    activations = np.maximum(windows @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    scores = activations @ weights["letters.weight"] + weights["letters.bias"]
    exponentials = np.exp(scores - scores.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def decode_columns(probabilities: NDArray[np.float32]) -> TextReading:
    """The letters whose columns follow one another in `probabilities` (w, letters and none).

    A letter is a run of columns in which it is the likeliest. Of two runs that are nearer than letters can be, the one
    with more probability counts: the left half of an m looks like an n.
    """
    classes = probabilities.argmax(axis=1)
    starts = np.flatnonzero(np.diff(classes, prepend=-1))
    stops = np.append(starts[1:], len(classes))
    runs: list[_Run] = []
    for start, stop in zip(starts, stops, strict=True):
        number = int(classes[start])
        if number == 0:
            continue
        columns = probabilities[start:stop, number]
        run = _Run(number, (start + stop - 1) / 2, float(columns.sum()), float(columns.max()))
        is_near = bool(runs) and run.centre - runs[-1].centre < MIN_PITCH_PX
        if not is_near:
            runs.append(run)
        elif run.mass > runs[-1].mass:
            runs[-1] = run
    text = "".join(ALPHABET[run.number - 1] for run in runs)
    return TextReading(text, min((run.probability for run in runs), default=0.0), parse_length_nm(text))


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
    letters = text.replace(" ", "").replace("u", "µ")
    return [1 + (ALPHABET.index(letter) if letter in ALPHABET else ALPHABET.index(OTHER)) for letter in letters]


def compute_scale(shape: tuple[int, int]) -> float:
    """Columns that the network reads per column of a line of `shape`."""
    return _find_width(shape) / shape[1]


def _find_width(shape: tuple[int, int]) -> int:
    return int(np.clip(round(shape[1] * HEIGHT_PX / shape[0]), 8, MAX_WIDTH_PX))


@lru_cache(maxsize=1)
def _load_weights() -> dict[str, NDArray[np.float32]]:
    from safetensors.numpy import load_file

    model_card = models.read_model_card(SCALE_TEXT_MODEL)
    with models.blame_model(SCALE_TEXT_MODEL):
        stored = load_file(str(models.check_file(SCALE_TEXT_MODEL, WEIGHTS, model_card)))
    return {name: tensor.astype(np.float32) for name, tensor in stored.items()}
