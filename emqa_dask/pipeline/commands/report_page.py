"""The pages of a report, made from the tables of one workspace or several: data pages, pictures and index.html."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_copies_list import list_copies
from emqa_dask.pipeline.commands.report_pictures import PageImages, read_page_images
from emqa_dask.pipeline.commands.report_review import read_review
from emqa_dask.pipeline.workspace.sampled_statistics import sample_statistics
from emqa_dask.report import page, trends
from emqa_dask.report.classifier_counts import ClassifierCounts, ClassifierSection, find_most_drifted
from emqa_dask.report.formatting import format_code
from emqa_dask.report.galleries import Galleries
from emqa_dask.report.page_content import PageContent, ReportedWorkspace
from emqa_dask.report.picture_pages import PICTURES_PER_FILE, write_pictures
from emqa_dask.report.row_pages import RowPages
from emqa_dask.report.triage_counts import Overview
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.custom_checks import list_rules
from emqa_dask.triage.rules import CHECK_FAILED, CLASSIFIER_CODES
from emqa_dask.uncertainty.time_bins import summarise_over_time

N_FIRST_ROWS = 25  # that are read without a script
TREND_LINES = {  # what is shown over time
    "predicted_f1": "of the detections",
    "noise_floor": "white noise, in grey ranges",
    "detail_cpp": "finest detail, cycles/px",
    "contrast": "Michelson contrast of the grey values",
}
FOLDERS = ("rows", "details", "thumbnails")  # of data pages, in the folder of the report


class Source(NamedTuple):
    """A workspace whose rows are shown."""

    workspace: Workspace
    settings: Settings
    summary: ReportedWorkspace


class ReportPages:
    """Files of a report in `folder`: add() all rows in order, then write_index()."""

    def __init__(self, folder: str, build: str, max_rows: int, *, has_classes: bool):
        """`build` tells reports apart; `max_rows` have pictures."""
        self.folder = folder
        self.page_names: set[str] = set()  # names of files
        self.overview = Overview(max_rows)
        self.galleries = Galleries()
        self.partitions: list[set[str]] = []  # of each workspace
        self._pages = RowPages(self._write, build, has_classes=has_classes)

    def add(self, rows: pa.Table, workspace: int = 0) -> pd.DataFrame:
        """Add `rows` (tables.TRIAGE) of the workspace with this number, and give them as a data frame."""
        self.partitions += [set() for _ in range(workspace + 1 - len(self.partitions))]
        self.partitions[workspace].update(rows["partition"].unique().drop_null().to_pylist())
        self._pages.add(rows, workspace)
        triage = rows.to_pandas()
        self.overview.add(triage)
        self.galleries.add(triage)
        return triage

    def write_index(
        self,
        sources: Sequence[Source],
        facts: Mapping,
        classes: ClassifierSection | None = None,
        samples: pd.DataFrame | None = None,
    ) -> list[str]:
        """URIs of all files of the report. Writes pictures and index.html, and removes what is of an earlier report."""
        rules = _list_rules(sources, has_classes=self._pages.has_classes)
        row_data = self._pages.describe(rules)
        picture_rows = np.union1d(self.overview.choose_shown_rows(), self.galleries.list_positions())
        images, picture_rows = self._write_pictures(sources, picture_rows)
        figures, n_sampled = self._draw_trends(sources)
        content = PageContent(
            overview=self.overview,
            read_column=lambda name: _read_column(sources, name),
            row_data=row_data,
            groups=self._pages.groups,
            galleries=self.galleries.list_galleries(),
            jpegs=images.pictures,
            first_rows=_read_rows(sources, np.arange(min(N_FIRST_ROWS, self.overview.n_rows))),
            picture_rows=picture_rows,
            pictures_per_file=PICTURES_PER_FILE,
            trends=figures,
            n_sampled=n_sampled,
            copies=list_copies([source.workspace for source in sources], self.overview.reasons),
            alarms=_load_alarms(sources),
            workspaces=[source.summary for source in sources],
            facts=facts,
            settings=sources[0].settings.triage,
            rules=rules,
            classes=classes,
            samples=samples,
            review=read_review(source.workspace for source in sources),
        )
        for name, data in page.read_assets().items():
            files.write_bytes(files.join(self.folder, name), data)
        index = files.join(self.folder, "index.html")
        with files.write_whole(index) as stream:  # last, since it says that the report is whole
            for text in page.render_page(content):
                stream.write(text.encode())
        self._remove_old_pages()
        return [index, *(files.join(self.folder, name) for name in (*page.ASSETS, *sorted(self.page_names)))]

    def _write(self, name: str, text: str) -> None:
        self.page_names.add(name)
        files.write_bytes(files.join(self.folder, name), text.encode("ascii"))

    def _remove_old_pages(self) -> None:
        for folder in FOLDERS:
            for name in files.list_names(files.join(self.folder, folder)):
                if f"{folder}/{name}" not in self.page_names:
                    files.remove_file(files.join(self.folder, folder, name))

    def _write_pictures(self, sources: Sequence[Source], positions: NDArray) -> tuple[PageImages, list[int]]:
        """Images of the rows at sorted `positions`, and the positions with a picture. Writes their files."""
        rows = _read_rows(sources, positions)
        images = PageImages({}, {}, {}, {})
        for number, source in enumerate(sources):
            own_rows = rows[rows["workspace"].eq(number)]
            images.add(read_page_images(source.workspace, own_rows, source.settings))
        maps = images.entropy_maps
        return images, write_pictures(self._write, rows, images.pictures, images.boxes, maps, images.details)

    def _draw_trends(self, sources: Sequence[Source]) -> tuple[list[dict], int]:
        """Figures of predicted F1 and image statistics over time, and the number of sampled images."""
        samples = [
            sample_statistics(source.workspace, source.settings, sorted(partitions))
            for source, partitions in zip(sources, self.partitions)
        ]
        sample = pd.concat(samples, ignore_index=True) if samples else pd.DataFrame()
        figures = []
        for name in TREND_LINES if len(sample) else ():
            svg = trends.draw_trend(summarise_over_time(sample, name), f"{format_code(name)} over time")
            if svg:
                title = format_code(name)
                figures.append({"title": title[:1].upper() + title[1:], "line": TREND_LINES[name], "svg": svg})
        return figures, len(sample)


def write_sessions(workspace: Workspace, settings: Settings, classes: ClassifierCounts) -> ClassifierSection | None:
    """The page's section on the classifier. Tests sessions for drift; writes drifts and sessions."""
    if not settings.classify.model:
        return None
    # Imported here, since it takes a second that runs without a classifier need not wait for.
    from emqa_dask.pipeline.workspace.sessions import compute_session_drifts

    result = compute_session_drifts(workspace, settings)
    with parts.open_table_writer(workspace.drifts, tables.DRIFTS) as write:
        write(result.drifts)
    with parts.open_table_writer(workspace.sessions, tables.SESSIONS) as write:
        write(result.sessions)
    quantity = find_most_drifted(result.drifts)
    shift_kinds = dict(zip(result.sessions["cohort"], result.sessions["shift"]))
    trend = summarise_over_time(result.values, quantity) if quantity else None
    return classes.make_section(result.drifts, quantity, trend, shift_kinds)


def _list_rules(sources: Iterable[Source], *, has_classes: bool) -> list:
    """Rules of all workspaces, without those that cannot hold in any of them."""
    rules = {}
    for source in sources:
        flags = source.settings.flags
        impossible_codes = (() if has_classes else CLASSIFIER_CODES) + (() if flags.custom else (CHECK_FAILED,))
        rules |= {rule.code: rule for rule in list_rules(flags) if rule.code not in impossible_codes}
    return list(rules.values())


def _load_alarms(sources: Iterable[Source]) -> pd.DataFrame:
    """Alarms of all workspaces, the latest first."""
    alarms = [parts.load_table(source.workspace.alarms, tables.ALARMS) for source in sources]
    return pd.concat(alarms, ignore_index=True).sort_values("time", ascending=False, kind="stable")


def _read_column(sources: Iterable[Source], name: str) -> NDArray[np.float64]:
    """Numbers (n,) of a column of tables.TRIAGE, of all workspaces."""
    columns = [np.zeros(0)]
    for source in sources:
        for rows in parts.iterate_table(source.workspace.triage, tables.TRIAGE, [name]):
            columns.append(rows[name].to_numpy(float, na_value=np.nan))
    return np.concatenate(columns)


def _read_rows(sources: Iterable[Source], positions: NDArray) -> pd.DataFrame:
    """Rows of tables.TRIAGE, and the number of their workspace, at sorted `positions`, which are the index."""
    batches = [tables.empty(tables.TRIAGE).assign(workspace=0)]
    first_number = 0
    for number, source in enumerate(sources):
        for rows in parts.iterate_arrow_tables(source.workspace.triage, tables.TRIAGE):
            own_positions = positions[(positions >= first_number) & (positions < first_number + len(rows))]
            if len(own_positions):
                own_rows = rows.take(pa.array(own_positions - first_number)).to_pandas()
                batches.append(own_rows.set_axis(own_positions).assign(workspace=number))
            first_number += len(rows)
    return pd.concat(batches)
