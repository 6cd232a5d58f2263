"""Data pages with all rows of the table: typed columns for sort, filter and search, and details of rows in view."""

import base64
import json
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from emqa_dask.report.classifier_section import SHIFT_LABELS
from emqa_dask.report.explanations import Explanations
from emqa_dask.report.group_counts import GroupCounts
from emqa_dask.report.row_details import list_row_details
from emqa_dask.tables import VERDICTS

PAGE_ROWS = 8192  # rows of a data page: some 400 kB
DETAIL_ROWS = 256  # rows of a page of details: 50 rows of a sorted table come from as many pages
EAGER_ROWS = 200_000  # of larger archives all pages are loaded at the first sort or filter only
FRACTION_SCALE = 10_000  # fractions have four digits
MAX_SHARED = 30_000  # characters that a URI shares with the one before it; at most two 16-bit units each
NO_FRACTION = 65_535  # stands for an unknown fraction
NO_MINUTE = -(2**31)  # stands for an unknown date
TEXTS = {"session": "session", "instrument": "instrument", "format": "format"}  # name on the page -> column
FRACTIONS = {
    "f1": "predicted_f1",
    "low": "predicted_f1_low",
    "high": "predicted_f1_high",
    "f1_probability": "f1_probability",
}
NUMBERS = {"n": "n_detections", "distance": "ood_distance", "nm": "nm_per_pixel"}
CLASS_FRACTIONS = {"probability": "class_probability"}
CLASS_NUMBERS = {"entropy": "predictive_entropy_nats", "shift_score": "shift_score"}
Columns = dict[str, NDArray]


class Names:
    """Texts that rows refer to by number; 0 is the unknown one."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {"": 0}

    def encode(self, texts: pa.ChunkedArray) -> NDArray[np.uint32]:
        """Number of each of `texts` (n,); new texts get the next numbers, missing ones 0."""
        encoded = pc.dictionary_encode(texts.combine_chunks())
        numbers = [self.numbers.setdefault(text, len(self.numbers)) for text in encoded.dictionary.to_pylist()]
        return np.array([*numbers, 0], np.uint32)[encoded.indices.fill_null(-1).to_numpy()]


class RowPages:
    """Writes the data pages of all rows; add() tables.TRIAGE in order, then describe().

    In memory are at most PAGE_ROWS rows, and the names that they refer to.
    """

    def __init__(self, write: Callable[[str, str], None], build: str, *, has_classes: bool = False):
        """`write(name, text)` writes a file of the report's folder; `build` tells reports apart."""
        self.n_rows = 0
        self.n_pages = 0
        self.names = {name: Names() for name in (*TEXTS, "magnification", *(["class", "shift"] if has_classes else []))}
        self.reasons = Names()
        self.explanations = Explanations()
        self.groups = GroupCounts()
        self.has_classes = has_classes
        self._write = write
        self._build = build
        self._queue: list[tuple[pa.Table, int]] = []  # rows, number of their workspace

    def add(self, rows: pa.Table, workspace: int = 0) -> None:
        """Add `rows` (tables.TRIAGE) of a workspace."""
        self._queue.append((rows, workspace))
        while sum(len(rows) for rows, _ in self._queue) >= PAGE_ROWS:
            self._write_page()

    def describe(self, rules: Sequence) -> dict:
        """What the page's script needs to read the data pages. Writes the last one."""
        if self._queue and sum(len(rows) for rows, _ in self._queue):
            self._write_page()
        positions = {rule.code: k for k, rule in enumerate(rules)}
        reason_lists = [[positions[code] for code in text.split(";") if code] for text in self.reasons.numbers]
        names = {name: list(own.numbers) for name, own in self.names.items()}
        sentences, explanations = self.explanations.describe()
        if self.has_classes:
            names["shift"] = [SHIFT_LABELS.get(kind, "") for kind in names["shift"]]
        return {
            "build": self._build,
            "n": self.n_rows,
            "n_pages": self.n_pages,
            "page_rows": PAGE_ROWS,
            "detail_rows": DETAIL_ROWS,
            "eager_rows": EAGER_ROWS,
            "columns": self._list_kinds(),
            "names": names,
            "reasons": reason_lists,
            "sentences": sentences,
            "explanations": explanations,
        }

    def _list_kinds(self) -> dict[str, str]:
        """Type of each column in the browser."""
        kinds = {name: "u2" if len(own.numbers) < 2**16 else "u4" for name, own in self.names.items()}
        kinds |= {"verdict": "u1", "reasons": "u2" if len(self.reasons.numbers) < 2**16 else "u4"}
        kinds |= {"workspace": "u2", "frame": "u4", "minute": "i4", "explanation": "u2"}
        kinds |= dict.fromkeys([*FRACTIONS, *(CLASS_FRACTIONS if self.has_classes else ())], "u2")
        return kinds | dict.fromkeys([*NUMBERS, *(CLASS_NUMBERS if self.has_classes else ())], "f4")

    def _write_page(self) -> None:
        batches = []
        n_taken = 0
        while self._queue and n_taken < PAGE_ROWS:
            rows, workspace = self._queue.pop(0)
            n_own = min(len(rows), PAGE_ROWS - n_taken)
            if n_own < len(rows):
                self._queue.insert(0, (rows.slice(n_own), workspace))
            batches.append((rows.slice(0, n_own), workspace))
            n_taken += n_own
        rows = pa.concat_tables([own for own, _ in batches])
        workspaces = np.repeat([number for _, number in batches], [len(own) for own, _ in batches])
        self._write_details(rows)
        columns = self._encode_columns(rows)
        self.groups.add(columns)
        columns |= {"workspace": workspaces.astype("<u2")}
        uris, shared = encode_fronts(rows["uri"].to_pylist())
        page = {"build": self._build, "first": self.n_rows, "n": len(rows), "uris": uris, "shared": to_base64(shared)}
        page["columns"] = {name: pack_column(values) for name, values in columns.items()}
        self._write(f"rows/{self.n_pages:05d}.js", format_call("addRows", page))
        self.n_rows += len(rows)
        self.n_pages += 1

    def _write_details(self, rows: pa.Table) -> None:
        details = list_row_details(rows)
        for first in range(0, len(rows), DETAIL_ROWS):
            page = {name: values[first : first + DETAIL_ROWS] for name, values in details.items()}
            number = (self.n_rows + first) // DETAIL_ROWS
            page["first"] = self.n_rows + first
            self._write(f"details/{number:05d}.js", format_call("addDetails", page))

    def _encode_columns(self, rows: pa.Table) -> Columns:
        verdicts = pc.index_in(rows["verdict"], pa.array(VERDICTS))
        columns = {
            "verdict": verdicts.to_numpy().astype(np.uint8),
            "reasons": self.reasons.encode(pc.binary_join(rows["reasons"], ";")),
            "frame": rows["frame"].to_numpy().astype(np.uint32),
            "minute": encode_minutes(rows["acquired"]),
            "explanation": self.explanations.encode(rows).to_numpy(),
        }
        columns |= {name: self.names[name].encode(rows[column]) for name, column in TEXTS.items()}
        columns["magnification"] = self.names["magnification"].encode(format_magnifications(rows["magnification"]))
        fractions = FRACTIONS | (CLASS_FRACTIONS if self.has_classes else {})
        columns |= {name: encode_fractions(rows[column]) for name, column in fractions.items()}
        numbers = NUMBERS | (CLASS_NUMBERS if self.has_classes else {})
        columns |= {name: to_floats(rows[column]).astype(np.float32) for name, column in numbers.items()}
        if self.has_classes:
            columns["class"] = self.names["class"].encode(rows["predicted_class"])
            columns["shift"] = self.names["shift"].encode(rows["shift"])
        kinds = self._list_kinds()
        return {name: values.astype(f"<{kinds[name]}") for name, values in columns.items()}


def encode_fronts(uris: Sequence[str]) -> tuple[list[str], NDArray[np.uint16]]:
    """Each URI without what it shares with the one before, and the length (n,) of that in UTF-16 code units."""
    ends = []
    lengths = np.zeros(len(uris), "<u2")
    previous = ""
    for k, uri in enumerate(uris):
        n_shared = next((k for k, (a, b) in enumerate(zip(previous, uri)) if a != b), min(len(previous), len(uri)))
        prefix = uri[: min(n_shared, MAX_SHARED)]
        ends.append(uri[len(prefix) :])
        lengths[k] = len(prefix) if prefix.isascii() else len(prefix.encode("utf-16-le", "surrogatepass")) // 2
        previous = uri
    return ends, lengths


def encode_minutes(acquired: pa.ChunkedArray) -> NDArray[np.int32]:
    """Minutes (n,) from 1970-01-01 UTC to each date (ISO 8601); NO_MINUTE where it is unknown or not a date."""
    dates = pd.to_datetime(acquired.to_pandas(), format="ISO8601", errors="coerce", utc=True).dt.tz_localize(None)
    minutes = dates.to_numpy().astype("datetime64[m]").astype(np.int64)
    return np.where(dates.isna(), NO_MINUTE, minutes).astype(np.int32)


def format_magnifications(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Magnifications (n,) as text; null where they are unknown."""
    encoded = pc.dictionary_encode(values.combine_chunks())
    texts = [f"{m:g}" if m is not None and m > 0 else None for m in encoded.dictionary.to_pylist()]
    return pa.chunked_array([pa.array(texts, pa.string()).take(encoded.indices)])


def to_floats(values: pa.ChunkedArray) -> NDArray[np.float64]:
    """Numbers (n,); NaN where they are missing."""
    return pc.cast(values, pa.float64()).fill_null(np.nan).to_numpy()


def encode_fractions(values: pa.ChunkedArray) -> NDArray[np.uint16]:
    """Numbers (n,) from 0 to 1 with four digits, as 10,000 times them; NO_FRACTION where they are unknown."""
    fractions = to_floats(values)
    is_known = np.isfinite(fractions)
    scaled = np.round(np.clip(np.where(is_known, fractions, 0), 0, 1) * FRACTION_SCALE)
    return np.where(is_known, scaled, NO_FRACTION).astype(np.uint16)


def pack_column(values: NDArray) -> list:
    """Type of a column (n > 0) and its values as base64, or the value that all rows have."""
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    if values.dtype.kind != "f" and (values == values[0]).all():
        return [kind, int(values[0])]
    return [kind, to_base64(values)]


def to_base64(values: NDArray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def format_call(function: str, argument: object) -> str:
    """Script that hands `argument` to a function of the page. All characters are ASCII."""
    return f"emqa.{function}({json.dumps(argument, separators=(',', ':'), allow_nan=False)});\n"
