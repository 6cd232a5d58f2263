"""A map of settings: windows that cover an image, each with LoG settings of its own; its file is windows.csv."""

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from emqa_dask.number_ranges import Range
from emqa_dask.settings.rules import SettingsError, check_values, require

MAX_WINDOWS = 10_000  # of a map: those of 100 px in an image of 100 megapixels
MAX_SIDE_PX = 1_000_000


@dataclass(frozen=True)
class DetectWindow:
    """A rectangle of an image, y0 <= y < y1 and x0 <= x < x1 in px, and the settings of [detect] that hold in it."""

    y0: int
    x0: int
    y1: int
    x1: int
    threshold: float
    overlap: float
    min_sigma: float
    max_sigma: float
    num_sigma: int
    log_scale: bool
    RANGES: ClassVar = {
        "y0": Range(0, MAX_SIDE_PX),
        "x0": Range(0, MAX_SIDE_PX),
        "y1": Range(1, MAX_SIDE_PX),
        "x1": Range(1, MAX_SIDE_PX),
        "threshold": Range(0, 10),
        "overlap": Range(0, 1),
        "min_sigma": Range(0.1, 1000),
        "max_sigma": Range(0.1, 1000),
        "num_sigma": Range(1, 100),
    }

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The sides y0, x0, y1, x1."""
        return self.y0, self.x0, self.y1, self.x1

    @property
    def changes(self) -> dict[str, Any]:
        """Its settings of [detect]."""
        return {name: getattr(self, name) for name in COLUMNS[4:]}

    def check(self) -> None:
        """SettingsError for values out of their ranges, a rectangle without pixels and min_sigma above max_sigma."""
        check_values(self, "windows")
        require(self.y0 < self.y1, "windows.y0", self.y0, f"has to be below y1, which is {self.y1}")
        require(self.x0 < self.x1, "windows.x0", self.x0, f"has to be below x1, which is {self.x1}")
        rule = f"has to be at most max_sigma, which is {self.max_sigma}"
        require(self.min_sigma <= self.max_sigma, "windows.min_sigma", self.min_sigma, rule)


COLUMNS = tuple(field.name for field in dataclasses.fields(DetectWindow))
DetectWindows = tuple[DetectWindow, ...]
_TYPES = {field.name: field.type for field in dataclasses.fields(DetectWindow)}


def compute_map_shape(windows: Sequence[DetectWindow]) -> tuple[int, int]:
    """Height and width, px, of the images that `windows` cover."""
    return max(window.y1 for window in windows), max(window.x1 for window in windows)


def check_image_size(windows: Sequence[DetectWindow], shape: tuple[int, ...]) -> None:
    """ValueError unless `windows` cover an image of `shape`."""
    height, width = compute_map_shape(windows)
    if (height, width) != tuple(shape):
        raise ValueError(
            f"the windows of its [[cohorts]] cover images of {height} x {width} px, and this image has "
            f"{' x '.join(map(str, shape))} px: tune it as a cohort of its own (emqa tune log --windows PX --cohort "
            "GLOB), or let the uri of the [[cohorts]] leave it out"
        )


def place_window_files(changes: dict, folder: Path) -> dict:
    """`changes` of a settings file in `folder`, relative to which files of windows are named."""
    cohorts = changes.get("cohorts")
    if not isinstance(cohorts, list):
        return changes
    placed = [
        cohort | {"windows": str(folder / cohort["windows"])}
        if isinstance(cohort, dict) and isinstance(cohort.get("windows"), str)
        else cohort
        for cohort in cohorts
    ]
    return changes | {"cohorts": placed}


def parse_detect_windows(value: object, key: str) -> DetectWindows:
    """Windows of the file that `value` names, or from lists of the values of COLUMNS, which `key` is to name."""
    return read_detect_windows(value) if isinstance(value, str) else make_detect_windows(value, key)


def read_detect_windows(path: str | Path) -> DetectWindows:
    """The windows of a table with the columns COLUMNS, as emqa tune log writes windows.csv; others are not read.

    SettingsError, which names the file and the row, for a file that is not there or not such a table, a value that is
    missing, NaN or out of its range, and windows that overlap or leave out a pixel of the image that they span.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise SettingsError(f"{path}: it has no column {', '.join(missing)}; emqa tune log --windows writes it")
            rows = [[row[name] for name in COLUMNS] for row in reader]
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file of windows; emqa tune log --windows writes it") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SettingsError(f"{path}: cannot be read as a table of windows: {error}; give another file") from error
    return make_detect_windows(rows, str(path))


def make_detect_windows(rows: object, source: str) -> DetectWindows:
    """Windows from lists of the values of COLUMNS, as text or numbers; errors as `read_detect_windows`."""
    if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == len(COLUMNS) for row in rows):
        raise SettingsError(
            f"{source}: windows are a file of emqa tune log, or a list of {', '.join(COLUMNS)} for each"
        )
    if not 1 <= len(rows) <= MAX_WINDOWS:
        raise SettingsError(f"{source}: it has {len(rows):,} windows: it has to have 1 to {MAX_WINDOWS:,}")
    windows = []
    for number, row in enumerate(rows, 1):
        try:
            windows.append(DetectWindow(*map(_convert, COLUMNS, row)))
            windows[-1].check()
        except ValueError as error:
            raise SettingsError(f"{source}: window {number}: {error}") from error
    _check_cover(windows, source)
    return tuple(windows)


def _convert(name: str, value: object) -> Any:
    """`value` in the type of the column `name`; SettingsError where it is none of that."""
    kind = _TYPES[name]
    text = str(value).strip()
    if kind is bool:
        require(text.lower() in ("true", "false"), name, value, "has to be true or false")
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    require(number == number, name, value, "has to be a number")
    if kind is float:
        return number
    require(number.is_integer(), name, value, "has to be a whole number")
    return int(number)


def _check_cover(windows: Sequence[DetectWindow], source: str) -> None:
    """SettingsError unless each pixel of the image that the windows span lies in exactly one of them."""
    height, width = compute_map_shape(windows)
    rows = sorted({0, height, *(y for window in windows for y in (window.y0, window.y1))})
    columns = sorted({0, width, *(x for window in windows for x in (window.x0, window.x1))})
    row_numbers = {y: k for k, y in enumerate(rows)}
    column_numbers = {x: k for k, x in enumerate(columns)}
    owners: dict[tuple[int, int], int] = {}  # of the cells between the sides of all windows
    for number, window in enumerate(windows, 1):
        for row in range(row_numbers[window.y0], row_numbers[window.y1]):
            for column in range(column_numbers[window.x0], column_numbers[window.x1]):
                first = owners.setdefault((row, column), number)
                if first != number:
                    raise SettingsError(
                        f"{source}: windows {first} and {number} overlap at y {rows[row]}, x {columns[column]}"
                    )
    for row in range(len(rows) - 1):
        for column in range(len(columns) - 1):
            if (row, column) not in owners:
                place = f"y {rows[row]}, x {columns[column]} of {height} x {width} px"
                raise SettingsError(f"{source}: no window covers {place}; windows have to cover the image")
