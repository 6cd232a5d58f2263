"""What hands results on: estimates from labels, exports for other tools, paths of files."""

import os
from collections.abc import Sequence

from emqa_dask import tables
from emqa_dask.cli import exchange_verbs, measure_verbs
from emqa_dask.pipeline.commands import list_files as list_command
from emqa_dask.pipeline.workspace.image_selection import Query
from emqa_dask.results.run import Run, open_run
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts


def estimate_specimen(
    workspace: str,
    labels: str | Sequence[str],
    settings: Settings | None = None,
    *,
    grouping: str = "all",
    probabilities: str = "",
    out: str = "",
    show: Sequence[str] = (),
    quantiles: Sequence[float] = (),
) -> Run:
    """Run with estimates of density, sizes and swelling from labels of some and detections in all images.

    The verb `estimate`.

    Parameters
    ----------
    workspace : str
        Workspace.
    labels : str or sequence of str
        Files of labels, as for `calibrate_workspace`.
    settings : Settings, optional
        Default: those of the workspace.
    grouping : str, default "all"
        Groups of images, the option --by: all, session, folder, folder:2, instrument, date, sample, or a CSV file.
    probabilities : str, optional
        CSV file with uri and review_probability of the labelled images.
    out : str, optional
        File to write, ``.parquet`` or ``.csv``. Default: ``estimates.parquet`` in the workspace.
    show : sequence of str, default ()
        Quantities that are printed, such as ``density``. Default: all.
    quantiles : sequence of float, default ()
        Probabilities of the quantiles over the images, between 0 and 1. Default: 0.1, 0.5 and 0.9.

    Returns
    -------
    Run
        The workspace.

    Raises
    ------
    ValueError
        If there is no workspace, no such quantity or quantile, or the labels do not fit its images.
    """
    options = {"labels": list_texts(labels), "grouping": grouping, "probabilities": str(probabilities), "out": str(out)}
    options |= {"show": list_texts(show), "quantiles": list(quantiles)}
    call_verb(measure_verbs.run_estimate, "estimate", workspace=str(workspace), settings=settings, **options)
    return open_run(workspace)


def export_detections(
    workspace: str,
    format: str,
    *,
    verdict: str | Sequence[str] = ("trust",),
    reason: str | Sequence[str] = (),
    detector: str | None = None,
    masks: str = "rle",
    out: str = "",
) -> int:
    """Number 0 after writing micrographs and their detections for another tool. The verb `export`.

    Parameters
    ----------
    workspace : str
        Workspace.
    format : str
        coco, cvat, fiftyone, napari, csv, yolo, geojson or fiji.
    verdict : str or sequence of str, default ("trust",)
        Verdicts of the micrographs.
    reason : str or sequence of str, optional
        Codes of reasons, of which one is enough. Default: all.
    detector : str, optional
        Whose detections. Default: those of the detector that each verdict rests on.
    masks : str, default "rle"
        "rle" or "polygon", in coco and cvat.
    out : str, optional
        File or new folder. Default: ``exports/FORMAT`` in the workspace.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If there is no workspace, no such format or verdict, or the run has no verdicts.
    """
    if format not in exchange_verbs.FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(exchange_verbs.FORMATS)}")
    options = {"verdict": _check_verdicts(verdict), "reason": list_texts(reason)}
    options |= {"detector": detector, "masks": masks, "out": str(out)}
    return call_verb(exchange_verbs.run_export, "export", workspace=str(workspace), format=format, **options)


def list_files(workspace: str, *, verdict: str | Sequence[str] = (), reason: str | Sequence[str] = ()) -> list[str]:
    """Paths of the files of a run by verdict and reason. The verb `list`.

    Parameters
    ----------
    workspace : str
        Workspace.
    verdict : str or sequence of str, optional
        Verdicts. Default: all.
    reason : str or sequence of str, optional
        Codes of reasons, of which one is enough. Default: all.

    Returns
    -------
    list of str
        Each file once, also if several of its frames have the verdict.

    Raises
    ------
    ValueError
        If there is no workspace, no such verdict, or the run has no verdicts.
    """
    texts: list[bytes] = []
    query = Query(tuple(_check_verdicts(verdict)), tuple(list_texts(reason)))
    list_command.list_files(str(workspace), query, texts.append, b"\0")
    return [os.fsdecode(path) for path in b"".join(texts).split(b"\0")[:-1]]


def _check_verdicts(verdicts: str | Sequence[str]) -> list[str]:
    """`verdicts` as a list; ValueError for one that does not exist."""
    names = list_texts(verdicts)
    if unknown := sorted(set(names) - set(tables.VERDICTS)):
        raise ValueError(f"no verdict {', '.join(unknown)}; there are {', '.join(tables.VERDICTS)}")
    return names
