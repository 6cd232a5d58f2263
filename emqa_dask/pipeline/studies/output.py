"""The folder of a study: tables as CSV, figures as PNG and SVG, summary.json and a page, written whole."""

import hashlib
import io
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from emqa_dask import models, output_folders
from emqa_dask.pipeline.commands.report_facts import list_versions
from emqa_dask.report.study_page import PageFigure, PageTable, render_study_page

FIGURE_DPI = 130
RESULT_ENDING = ".npy"  # of a result that an interrupted study has left


class StudyTable(NamedTuple):
    """A table of a study."""

    name: str  # of the file, without its ending
    caption: str
    rows: pd.DataFrame


class StudyFigure(NamedTuple):
    """A figure of a study."""

    name: str  # of the files, without their ending
    caption: str
    figure: Figure


def check_out(out: str | Path, title: str) -> None:
    """Raises FileExistsError where something is at `out` that this study did not write. Call it before any work.

    title: that of the study, which replaces its own folders alone, and neither those of other studies nor models.
    """
    output_folders.check_folder(out)
    out = output_folders.make_absolute(out)
    if out.is_dir():
        writer = str(models.read_model_card(out).get("made_by", "another command"))
        if not writer.startswith(title):
            raise FileExistsError(f"{out} was written by {writer}, not by {title}: give another name, or move it away")


def write_study(
    out: str | Path,
    title: str,
    summary: Mapping[str, Any],
    tables: Sequence[StudyTable],
    figures: Sequence[StudyFigure],
    paragraphs: Sequence[str] = (),
) -> None:
    """Writes the folder `out` of a study, whole or not at all; an earlier one of the same name is replaced.

    title: as "emqa study f1". summary: what summary.json holds beside the versions: settings, seed, counts and main
    figures; NaN becomes null. paragraphs: text at the top of index.html, which shows all tables and figures.
    """
    document = _to_json({"study": title, **summary, "versions": list_versions()})
    with output_folders.write_folder(out) as fresh:
        for table in tables:
            table.rows.to_csv(fresh / f"{table.name}.csv", index=False)
        page_figures = [_write_figure(fresh, figure) for figure in figures]
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
        (fresh / "summary.json").write_text(f"{text}\n", encoding="utf-8")
        page_tables = [PageTable(table.name, table.caption, table.rows) for table in tables]
        page = render_study_page(title, paragraphs, document, page_tables, page_figures)
        (fresh / "index.html").write_text(page, encoding="utf-8")
        models.write_model_card(fresh, {"name": Path(out).name, "made_by": title})


def _write_figure(folder: Path, figure: StudyFigure) -> PageFigure:
    """Writes a figure as PNG and as SVG; the same data give the same bytes."""
    png = io.BytesIO()
    figure.figure.savefig(png, format="png", dpi=FIGURE_DPI)
    (folder / f"{figure.name}.png").write_bytes(png.getvalue())
    with rc_context({"svg.hashsalt": figure.name}):
        figure.figure.savefig(folder / f"{figure.name}.svg", metadata={"Date": None})
    return PageFigure(figure.name, figure.caption, png.getvalue())


def _to_json(value: Any) -> Any:
    """`value` with plain numbers, and null for those that are not finite."""
    if isinstance(value, Mapping):
        return {str(key): _to_json(part) for key, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_to_json(part) for part in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class ResultStore(NamedTuple):
    """Results of an unfinished study, beside its folder: a study that was interrupted goes on from them."""

    folder: Path
    digest: str  # of everything that the results depend on

    def load_or_compute(self, name: str, compute: Callable[[], NDArray]) -> NDArray:
        """The array that `compute` returns, from the store where an earlier run has left it."""
        key = hashlib.sha256(f"{self.digest} {name}".encode()).hexdigest()[:32]
        path = self.folder / f"{key}{RESULT_ENDING}"
        if path.is_file():
            return np.load(path, allow_pickle=False)
        result = np.asarray(compute())
        self.folder.mkdir(parents=True, exist_ok=True)
        partial_path = path.with_suffix(f".{os.getpid()}.partial")
        with partial_path.open("wb") as stream:
            np.save(stream, result, allow_pickle=False)
        partial_path.replace(path)
        return result

    def remove(self) -> None:
        """Removes all results; call it once the study is written."""
        if self.folder.is_dir():
            for path in (*self.folder.glob(f"*{RESULT_ENDING}"), *self.folder.glob("*.partial")):
                path.unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()


def open_result_store(out: str | Path, *inputs: object) -> ResultStore:
    """The store of a study that is written to `out`; results are those of the same `inputs` (their repr) alone."""
    out = output_folders.make_absolute(out)
    digest = hashlib.sha256(repr((inputs, list_versions())).encode()).hexdigest()
    return ResultStore(out.with_name(f"{out.name}.unfinished"), digest)
