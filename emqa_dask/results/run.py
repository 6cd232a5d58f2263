"""A run as an object: its tables, stacks and images. Nothing is read before it is needed."""

import functools
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import tables
from emqa_dask.pipeline.workspace import atom_tables, journal, provenance
from emqa_dask.pipeline.workspace.stages import TABLES, list_run_folders
from emqa_dask.results.image_index import ImageIndex, ImagePlace
from emqa_dask.results.summaries import RunSummary
from emqa_dask.settings import Settings
from emqa_dask.store import files, marker, micrographs, parts, stored_settings
from emqa_dask.store.layout import Workspace

SINGLE_TABLES = (
    *("triage", "catalog", "micrographs", "flags", "duplicate_groups", "samples", "sessions", "drifts"),
    *("detector_choices", "failures", "estimates", "review_plan"),
)
# What the settings need for tables that not every run makes.
CLASSIFIER = "a classifier (`--classifier MODEL_DIR`)"
CONDITIONS = {
    "custom_checks": "[flags.custom]",
    "embeddings": "a network as detector",
    "detector_choices": "`--detector auto`",
    **dict.fromkeys(("probabilities", "regions", "classifications", "sessions", "drifts"), CLASSIFIER),
}
# Folders of parts that are not among those of the settings.
FIXED_FOLDERS = {"events": journal.EVENTS} | {name: name for name in atom_tables.SCHEMAS}
IMAGE_TABLES = ("triage", "micrographs", "flags", "review_plan")  # single tables with micrograph_id
# What a command line has before and after the workspace.
STEP_ARGUMENTS = {"ingest": (("SRC", "--workspace"), ()), "estimate": ((), ("LABELS",))}


def open_run(uri: str, *, verify: bool = True) -> "Run":
    """A finished or unfinished run as an object: tables as dask.dataframe, stacks as dask.array, single images.

    Opening reads the marker and the settings only. Tables are those of the last run's settings; after a further run,
    open the workspace again.

    Parameters
    ----------
    uri : str or path-like
        Workspace: a folder, or the URI of a folder in a bucket (``s3://bucket/session.emqa``).
    verify : bool, default True
        Hold each table against its checksum before its first use. Parts and pixels are always verified. Without it, a
        filter on a large table in a bucket fetches only the row groups that it needs.

    Returns
    -------
    Run
        The run.

    Raises
    ------
    ValueError
        If there is no workspace at `uri`, or one of another version; the message names the remedy.

    Examples
    --------
    >>> run = open_run("session.emqa")  # doctest: +SKIP
    >>> trusted = run.read_table("triage", filters=[("verdict", "==", "trust")]).compute()  # doctest: +SKIP
    >>> sizes = run.read_table("detections", columns=["diameter_nm"], images=trusted)  # doctest: +SKIP
    >>> sizes["diameter_nm"].mean().compute()  # doctest: +SKIP
    """
    return Run(uri, verify=verify)


class Run:
    """The results of a run; `open_run` makes it.

    Attributes ``triage``, ``samples``, ``measurements``, ``sizes``, ``detections``, ``features``, ``predictions``,
    ``classifications``, ``evidence``, ``embeddings``, ``probabilities``, ``regions``, ``thumbnails``,
    ``custom_checks``, ``catalog``, ``micrographs``, ``flags``, ``sessions``, ``drifts``, ``detector_choices``,
    ``failures``, ``estimates``, ``review_plan``, ``events`` and, after ``emqa tune types``, ``atom_columns``,
    ``atom_types`` and ``atom_maps`` are the tables of these names as dask.dataframe, as ``read_table`` gives them.

    Parameters
    ----------
    uri : str or path-like
        Workspace.
    verify : bool, default True
        Hold each table against its checksum before its first use.
    """

    def __init__(self, uri: str, *, verify: bool = True):
        root = str(uri)
        self._sources = marker.read_sources(root)
        self._verify = verify
        self.uri = root
        self.settings: Settings = stored_settings.read_settings(root)
        self.folders: dict[str, str] = list_run_folders(self.settings)
        self._workspace = Workspace(root)
        self._index = ImageIndex(self._workspace)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in (*SINGLE_TABLES, *TABLES, *FIXED_FOLDERS):
            raise AttributeError(f"a run has no attribute {name!r}")
        return self.read_table(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *SINGLE_TABLES, *TABLES, *FIXED_FOLDERS})

    def read_table(
        self,
        name: str,
        columns: Sequence[str] | None = None,
        filters: list | None = None,
        images: object = None,
    ):
        """A table of the run as dask.dataframe, or those of its columns and rows that are asked for.

        A partition is a part of the run (a shard's images), or a row group of a single table such as triage. Parts
        without any of `images`, and row groups that cannot fulfil `filters`, are never read.

        Parameters
        ----------
        name : str
            Name of the table, as in the data dictionary: "triage", "detections", "measurements", ...
        columns : sequence of str, optional
            Columns, in their order. Default: all.
        filters : list of tuples, optional
            Conditions (column, operator, value) that all hold, with ``==``, ``!=``, ``<``, ``<=``, ``>``, ``>=``,
            ``in`` or ``not in``; or a list of such lists, of which one holds.
        images : str, sequence of str, or DataFrame, optional
            Only rows of these images: URIs, or rows of a table with the column micrograph_id (pandas or dask).

        Returns
        -------
        dask.dataframe.DataFrame
            Whole numbers and booleans have pandas' nullable types, lists those of Arrow. NaN means unknown.

        Raises
        ------
        ValueError
            If there is no such table or column, the run has not made the table yet, or an image is unknown.
        """
        from emqa_dask.results import frames  # dask.dataframe takes half a second

        query = frames.TableQuery(name, filters, self._verify)
        if name in SINGLE_TABLES:
            return self._read_single_table(query, columns, images)
        folder = FIXED_FOLDERS.get(name) or self._find_folder(name)
        query.check_columns(columns)
        names = parts.list_parts(self.uri, folder)
        if name in atom_tables.SCHEMAS and not names:
            command = marker.format_command("tune", "types", self.uri)
            raise ValueError(f"{self.uri} has no {name} yet: run {command}")
        if name not in FIXED_FOLDERS:
            self._check_parts(name, names)
        ids = None if images is None else self._index.group_by_partition(self._index.list_ids(images))
        return frames.open_parts(query, files.join(self.uri, folder), names, columns, ids)

    def _read_single_table(self, query, columns: Sequence[str] | None, images: object):
        from emqa_dask.results import frames

        uri = files.join(self.uri, f"{query.table}.parquet")
        if images is not None and query.table not in IMAGE_TABLES:
            raise ValueError(f"{query.table} has no rows of images; {', '.join(IMAGE_TABLES)} have")
        ids = None if images is None else self._index.list_ids(images)
        try:
            return frames.open_table(query, uri, columns, ids)
        except FileNotFoundError:
            steps = {"catalog": "ingest", "micrographs": "ingest", "estimates": "estimate"}
            raise ValueError(self._describe_missing(query.table, steps.get(query.table, "report"))) from None

    def _find_folder(self, name: str) -> str:
        """The folder of a table's parts; ValueError for a table that the run does not make."""
        if name in self.folders:
            return self.folders[name]
        if name not in TABLES:
            names_text = ", ".join([*SINGLE_TABLES, *self.folders, *FIXED_FOLDERS])
            raise ValueError(f"there is no table {name!r}; a run has {names_text}")
        raise ValueError(self._describe_missing(name, TABLES[name].step))

    def _check_parts(self, name: str, names: Sequence[str]) -> None:
        """ValueError for a table that was not made yet; a warning for one that lacks parts."""
        partitions = self._index.list_partitions()
        if partitions and not names:
            raise ValueError(self._describe_missing(name, TABLES[name].step))
        if missing := partitions - set(names):
            remedy = marker.format_command("retry", self.uri, "--failed")
            text = f"{name} lacks {len(missing):,} of {len(partitions):,} parts: {remedy}, or let the run end"
            warnings.warn(text, stacklevel=4)

    def _describe_missing(self, name: str, step: str) -> str:
        if condition := CONDITIONS.get(name):
            return f"{self.uri} has no table {name}: that needs {condition} in the settings"
        prefix, suffix = STEP_ARGUMENTS.get(step, ((), ()))
        command = marker.format_command(step, *prefix, self.uri, *suffix)
        return f"{self.uri} has no {name} yet: run {command}"

    @property
    def stacks(self) -> list[str]:
        """Names of the stacks: images of one shape, data type and pixel size."""
        return self._index.list_stacks()

    def images(self, stack: str | None = None):
        """Micrographs of a stack as dask.array, as they were acquired.

        The n axis has the rows of ``run.read_table("micrographs", filters=[("stack", "==", stack)])`` by their column
        index. Only the images and rows that a result needs are read; the shape of a chunk is that of a partition.

        Parameters
        ----------
        stack : str, optional
            Name of the stack, one of `stacks`. Default: the only one.

        Returns
        -------
        dask.array.Array
            Axes (n, y, x). Computing raises OSError for a missing or damaged image: it never reads as black.

        Raises
        ------
        ValueError
            If there is no such stack, or several and none is named.
        """
        from emqa_dask.results import stack_arrays

        if stack is None:
            if len(self.stacks) != 1:
                raise ValueError(f"{self.uri} has {len(self.stacks)} stacks: name one of {', '.join(self.stacks)}")
            stack = self.stacks[0]
        return stack_arrays.open_stack(self.uri, stack, self._index.list_indices(stack))

    def image(self, uri: str, frame: int = 0) -> NDArray[Any]:
        """Pixels of an image, as they were acquired.

        Parameters
        ----------
        uri : str
            URI of the file as in the column triage.uri, or its last part where that is unambiguous.
        frame : int, default 0
            Number of the frame in the file.

        Returns
        -------
        numpy.ndarray
            Axes (y, x).

        Raises
        ------
        ValueError
            If the run has no such image, or several files have that name.
        OSError
            If its stored pixels are missing or damaged.
        """
        place = self._find_image(uri, frame)
        return micrographs.read_window(self.uri, place.stack, place.index)

    def show(self, uri: str, frame: int = 0, detector: str | None = None):
        """Figure of an image with its detections, and its verdict as the title.

        Parameters
        ----------
        uri : str
            URI of the file, as for `image`.
        frame : int, default 0
            Number of the frame in the file.
        detector : str, optional
            Whose detections; default: the detector that the verdict rests on. Detections below its score floor are
            not drawn.

        Returns
        -------
        matplotlib.figure.Figure
            Notebooks show it; ``savefig`` writes it.

        Raises
        ------
        ValueError
            If the run has no such image or detector.
        OSError
            If its stored pixels are missing or damaged.
        """
        from emqa_dask.results import pictures

        place = self._find_image(uri, frame)
        pixels = micrographs.read_window(self.uri, place.stack, place.index)
        row = self._read_verdict(place)
        detections, detector = self._read_detections(place, detector or row.get("detector"))
        name = place.uri + (f", frame {place.frame}" if place.frame else "")
        verdict = ": ".join([row["verdict"], *filter(None, [", ".join(row["reasons"])])]) if row else "no verdict yet"
        return pictures.draw_micrograph(
            pixels, detections, f"{name}\n{verdict}\n{len(detections)} detections of {detector}"
        )

    def _find_image(self, uri: str, frame: int) -> ImagePlace:
        complete_uri = self._index.complete_uri(uri)
        return self._index.find_image(complete_uri, frame, self._list_current_ids(complete_uri))

    def _list_current_ids(self, uri: str) -> list[str]:
        """Identities of the images that the report has of a file; empty without a report."""
        if not files.exists(self._workspace.triage):
            return []
        rows = self.read_table("triage", ["micrograph_id"], [("uri", "==", uri)])
        return rows.compute(scheduler="synchronous")["micrograph_id"].dropna().tolist()

    def _read_verdict(self, place: ImagePlace) -> dict:
        """The row of the image in triage; empty without one."""
        if not files.exists(self._workspace.triage):
            return {}
        filters = [("uri", "==", place.uri), ("micrograph_id", "==", place.micrograph_id)]
        rows = self.read_table("triage", ["verdict", "reasons", "detector"], filters)
        records = rows.compute(scheduler="synchronous").to_dict("records")
        if not records:
            return {}
        detector = records[0]["detector"]
        return records[0] | {"detector": None if pd.isna(detector) else detector}

    def _read_detections(self, place: ImagePlace, detector: str | None) -> tuple[pd.DataFrame, str]:
        """Detections of the image by `detector` (None: the first one) from the score floor on, and its name."""
        (partition,) = self._index.group_by_partition([place.micrograph_id])
        rows, evidence = (
            parts.read_part(self.uri, self.folders[name], partition, tables.ALL_TABLES[name])
            for name in ("detections", "evidence")
        )
        evidence = evidence[evidence["micrograph_id"] == place.micrograph_id]
        detector = detector or next(iter(evidence["detector"]), "")
        if detector not in set(evidence["detector"]):
            names_text = ", ".join(evidence["detector"])
            raise ValueError(f"{place.uri} has no result of detector {detector!r}; it has results of {names_text}")
        score_floor = evidence.loc[evidence["detector"] == detector, "score_floor"].iloc[0]
        is_shown = (rows["micrograph_id"] == place.micrograph_id) & (rows["detector"] == detector)
        return rows[is_shown & ~(rows["score"] < score_floor)].reset_index(drop=True), detector

    @functools.cached_property
    def _summary(self) -> RunSummary:
        facts = provenance.read(self._workspace)
        sizes = parts.iterate_table(self._workspace.catalog, tables.CATALOG, ["size_bytes"])
        return RunSummary(
            uri=files.redact(self.uri),
            archive=files.redact(marker.describe_sources(self._sources)),
            n_files=parts.count_rows(self._workspace.catalog),
            n_micrographs=parts.count_rows(self._workspace.micrographs),
            archive_bytes=int(np.sum([rows["size_bytes"].sum() for rows in sizes], initial=0)),
            verdicts=facts.get("verdicts", {}),
            first_reasons=facts.get("first_reasons", {}),
            detectors=tuple(self.settings.detect.detectors),
            stacks=tuple(self.stacks),
            folders=self.folders,
            report_page=files.redact(self._workspace.report_page),
        )

    def __repr__(self) -> str:
        return self._summary.render_text()

    def _repr_html_(self) -> str:
        return self._summary.render_html()
