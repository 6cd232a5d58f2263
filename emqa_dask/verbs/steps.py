"""The steps of a run: ingest, detect, classify, featurise, predict, measure, report; and what a run would cost."""

from collections.abc import Sequence

from emqa_dask.cli import run_verbs
from emqa_dask.results.run import Run, open_run
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts


def estimate_run(
    sources: str | Sequence[str],
    workspace: str | None = None,
    settings: Settings | None = None,
    *,
    exclude: Sequence[str] | None = None,
    include: Sequence[str] | None = None,
) -> int:
    """Number 0 after printing what a run would cost: files, bytes, hours and memory. The verb `triage --dry-run`.

    Parameters
    ----------
    sources : str or sequence of str
        Folders, lists of files, or URIs.
    workspace : str, optional
        Where results would go. Default: ``./<name of the archive>.emqa``.
    settings : Settings, optional
        Default: those of the workspace.
    exclude, include : sequence of str, optional
        Patterns of files, instead of ``archive.exclude`` and ``archive.include``.

    Returns
    -------
    int
        0. Nothing is written.

    Raises
    ------
    ValueError
        If settings do not fit together or a model is missing.
    OSError
        If a source does not exist.
    """
    options = {"moved_from": None, "exclude": exclude, "include": include, "dry_run": True}
    return call_verb(
        run_verbs.run_triage,
        "triage",
        sources=list_texts(sources),
        workspace=_to_text(workspace),
        settings=settings,
        **options,
    )


def watch_archive(
    sources: str | Sequence[str],
    workspace: str | None = None,
    settings: Settings | None = None,
    *,
    exclude: Sequence[str] | None = None,
    include: Sequence[str] | None = None,
    every: float = 0.5,
    settle: float = 1.0,
    report_every: float = 60.0,
    gap: float = 1800.0,
    false_alarms: float = 0.01,
    webhook: str = "",
    json: bool = False,
) -> int:
    """Number 0 after Ctrl-C: triages the files of an archive as they come. The verb `watch`.

    Parameters
    ----------
    sources : str or sequence of str
        Folders, lists of files, or URIs. A local folder has to exist, but may be empty.
    workspace : str, optional
        Where results go. Default: ``./<name of the archive>.emqa``.
    settings : Settings, optional
        Default: those of the workspace.
    exclude, include : sequence of str, optional
        Patterns of files, instead of ``archive.exclude`` and ``archive.include``.
    every, settle, report_every, gap : float
        Seconds between looks at the archive, for which a complete file stays the same, between reports, and without
        images, which end a session.
    false_alarms : float, default 0.01
        Probability of an alarm in a session whose images do not change.
    webhook : str, optional
        Address that gets each alarm as a POST of JSON.
    json : bool, default False
        Print verdicts and alarms as lines of JSON.

    Returns
    -------
    int
        0.

    Raises
    ------
    ValueError
        If an option is out of range, or the workspace belongs to another archive.
    OSError
        If a local source does not exist at the start, or the disk is full.
    RuntimeError
        If another run uses the workspace.
    """
    options = {"sources": list_texts(sources), "workspace": _to_text(workspace), "exclude": exclude, "include": include}
    options |= {"every": every, "settle": settle, "report_every": report_every, "gap": gap, "webhook": webhook}
    return call_verb(run_verbs.run_watch, "watch", settings=settings, false_alarms=false_alarms, json=json, **options)


def ingest_archive(
    sources: str | Sequence[str],
    workspace: str,
    settings: Settings | None = None,
    *,
    moved_from: str | None = None,
    exclude: Sequence[str] | None = None,
    include: Sequence[str] | None = None,
) -> Run:
    """Run after reading an archive into its workspace: catalog, OME-Zarr stacks, thumbnails. The verb `ingest`.

    Parameters
    ----------
    sources : str or sequence of str
        Folders, lists of files, or URIs.
    workspace : str
        Where results go; it is made if it does not exist.
    settings : Settings, optional
        Default: those of the workspace.
    moved_from : str, optional
        Former place of the archive, if it was moved, renamed or mounted elsewhere.
    exclude, include : sequence of str, optional
        Patterns of files, instead of ``archive.exclude`` and ``archive.include``.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If the workspace belongs to another archive; the message names the remedy.
    OSError
        If a source does not exist or the disk is full.
    RuntimeError
        If another run uses the workspace.
    """
    options = {"moved_from": moved_from, "exclude": exclude, "include": include}
    call_verb(
        run_verbs.run_step,
        "ingest",
        sources=list_texts(sources),
        workspace=str(workspace),
        settings=settings,
        **options,
    )
    return open_run(workspace)


def detect_objects(workspace: str, settings: Settings | None = None) -> Run:
    """Run after detecting objects in every stored micrograph. The verb `detect`.

    Parameters
    ----------
    workspace : str
        Workspace of an archive that was ingested.
    settings : Settings, optional
        Default: those of the workspace.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If there is no workspace, or a model is missing or damaged; the message names the remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    return _run_step("detect", workspace, settings)


def classify_micrographs(workspace: str, settings: Settings | None = None) -> Run:
    """Run after classifying every stored micrograph with the ensemble of the settings. The verb `classify`.

    Parameters
    ----------
    workspace : str
        Workspace of an archive that was ingested.
    settings : Settings, optional
        Default: those of the workspace.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If there is no workspace, or a model is missing or damaged; the message names the remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    return _run_step("classify", workspace, settings)


def featurise_micrographs(workspace: str, settings: Settings | None = None) -> Run:
    """Run after computing features of detections and pixels. The verb `featurise`.

    Parameters
    ----------
    workspace : str
        Workspace of an archive that was ingested.
    settings : Settings, optional
        Default: those of the workspace.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If there is no workspace, or a model is missing or damaged; the message names the remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    return _run_step("featurise", workspace, settings)


def predict_quality(workspace: str, settings: Settings | None = None) -> Run:
    """Run after predicting the F1 of each micrograph's detections and its distance from the domain. The verb `predict`.

    Parameters
    ----------
    workspace : str
        Workspace of an archive that was ingested.
    settings : Settings, optional
        Default: those of the workspace.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If there is no workspace, or a model is missing or damaged; the message names the remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    return _run_step("predict", workspace, settings)


def measure_objects(workspace: str, settings: Settings | None = None) -> Run:
    """Run after measuring the objects of each micrograph: number, density, sizes, swelling. The verb `measure`.

    Parameters
    ----------
    workspace : str
        Workspace of an archive that was ingested.
    settings : Settings, optional
        Default: those of the workspace.

    Returns
    -------
    Run
        The workspace; its table ``failures`` has what failed.

    Raises
    ------
    ValueError
        If there is no workspace, or a model is missing or damaged; the message names the remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    return _run_step("measure", workspace, settings)


def report_verdicts(
    workspace: str | Sequence[str], settings: Settings | None = None, *, out: str | None = None
) -> Run | str:
    """Run after giving every file a verdict and writing triage.parquet, triage.csv and the page. The verb `report`.

    With `out`: one page with the rows of several workspaces, whose verdicts stay as they are.

    Parameters
    ----------
    workspace : str or sequence of str
        Workspace of an archive that was ingested; with `out`, one or several that have verdicts.
    settings : Settings, optional
        Default: those of the workspace.
    out : str, optional
        New folder for one report of several workspaces, or one with such a report.

    Returns
    -------
    Run or str
        The workspace; its table ``failures`` has what failed. With `out`, the URI of the page.

    Raises
    ------
    ValueError
        If there is no workspace, a model is missing or damaged, or `out` contains other files; the message names the
        remedy.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.
    """
    roots = list_texts(workspace)
    if out is None and len(roots) == 1:
        return _run_step("report", roots[0], settings)
    call_verb(run_verbs.run_step, "report", workspace=roots, settings=settings, out=_to_text(out))
    return f"{str(out).rstrip('/')}/index.html"


def _run_step(verb: str, workspace: str, settings: Settings | None) -> Run:
    call_verb(run_verbs.run_step, verb, workspace=str(workspace), settings=settings)
    return open_run(workspace)


def _to_text(path: str | None) -> str | None:
    return None if path is None else str(path)
