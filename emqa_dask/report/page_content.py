"""What the page of the report shows, beside the data pages of its rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import pandas as pd
from numpy.typing import NDArray

from emqa_dask.report.classifier_counts import ClassifierSection
from emqa_dask.report.galleries import Gallery
from emqa_dask.report.group_counts import GroupCounts
from emqa_dask.report.triage_counts import Overview
from emqa_dask.settings import Triage


class ReportedWorkspace(NamedTuple):
    """A workspace whose rows a report shows."""

    name: str
    root: str  # what stands in front of URIs in the paths of files; "" where that is not one folder
    n: int  # rows
    report: str  # address of its own report, as seen from the page
    images: str | None  # what stands in front of micrograph.html in the address of an image's page; None without any


class Copies(NamedTuple):
    """Copies of images."""

    n: int
    n_listed: int
    groups: list[tuple[str, list[tuple[str, str]]]]  # original, and the (URI, finding) of its listed copies


class Review(NamedTuple):
    """The review by people."""

    reviewers: list[dict]  # reviewer, n_images, n_accepted, n_rejected, n_unsure
    pairs: list[dict]  # review.decisions.AGREEMENT_COLUMNS
    contradictory: list[str]  # URIs


class PageContent(NamedTuple):
    """What the page shows beside the data pages."""

    overview: Overview
    read_column: Callable[[str], NDArray]  # (n,) float64 of tables.TRIAGE by name
    row_data: dict  # RowPages.describe()
    groups: GroupCounts
    galleries: Sequence[Gallery]
    jpegs: Mapping[str, bytes]  # of the galleries, by micrograph_id
    first_rows: pd.DataFrame  # of tables.TRIAGE, that are read without a script
    picture_rows: Sequence[int]  # positions of the rows with a picture, ascending
    pictures_per_file: int
    trends: Sequence[Mapping]  # title, line, svg
    n_sampled: int  # images of `trends`
    copies: Copies
    alarms: pd.DataFrame  # tables.ALARMS, the latest first
    workspaces: Sequence[ReportedWorkspace]
    facts: Mapping
    settings: Triage
    rules: Sequence
    classes: ClassifierSection | None = None
    samples: pd.DataFrame | None = None
    review: Review | None = None
