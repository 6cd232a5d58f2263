"""emqa triage: runs the steps on a workspace; `triage_archive` is the same for Python."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.backend import to_device
from emqa_dask.pipeline.commands import ingest
from emqa_dask.pipeline.commands.bundled_tables import say_unfit_models
from emqa_dask.pipeline.commands.choose_detectors import choose_detectors
from emqa_dask.pipeline.commands.dose_advice import read_advice
from emqa_dask.pipeline.commands.executor import RunExecutor
from emqa_dask.pipeline.commands.make_tables import make_tables
from emqa_dask.pipeline.commands.report import RunFacts, report
from emqa_dask.pipeline.workspace import integrity, journal, preconditions, provenance
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles, Archives, list_sources, name_sources
from emqa_dask.pipeline.workspace.check_functions import resolve_checks
from emqa_dask.pipeline.workspace.failures import write_failures
from emqa_dask.pipeline.workspace.part_folders import SURVEY_FILES, SURVEY_FRAMES
from emqa_dask.pipeline.workspace.stages import STEPS, STEPS_WITH_PIXELS, list_run_folders, list_step_tables
from emqa_dask.run.progress import format_duration
from emqa_dask.run.task import IN_PROCESS
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import files, lock, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]


def triage_archive(
    source: Archives, workspace: str, settings: Settings | None = None, *, say: Say = print
) -> pd.DataFrame:
    """Verdicts on all files of an archive: the table triage.parquet of its workspace.

    Runs all steps on the archive: survey, storage, detection, features, predictions, verdicts and report. Finished work
    in the workspace is not done again. The command `emqa triage` does the same.

    Parameters
    ----------
    source : str, path-like, or several of these
        Archive: a folder, a file, a list of files, or the URI of a folder in a bucket. With several sources, the URI of
        each file starts with the name of its source's folder; their order does not matter.
    workspace : str
        Workspace: a folder, or the URI of a folder in a bucket. It is made if it does not exist, and belongs to this
        archive.
    settings : Settings, optional
        Settings of the run, by default those of `Settings()`; `load_settings` reads them from a file.
    say : callable, default print
        Gets every line of progress as text.

    Returns
    -------
    pandas.DataFrame
        Columns of `tables.TRIAGE`, with one row per micrograph and one row per file without micrographs, in the order
        of URI and frame. A file that cannot be read has a row with the status "failed" and a reason.

    Raises
    ------
    ValueError
        If settings do not fit together, a model is missing or damaged, the archive contains no files, or the workspace
        belongs to another archive. The message names the remedy.
    OSError
        If the archive does not exist or the disk of the workspace is full.
    RuntimeError
        If another run uses the workspace, or the requested device or workers are not available.

    References
    ----------
    Dunn, Wasserman & Ramdas, J. Am. Stat. Assoc. 118 (2023) 2491, for the intervals of the predicted quality. Geifman &
    El-Yaniv, NIPS (2017), for the referral of uncertain classifications.

    Examples
    --------
    >>> table = triage_archive("scans", "scans-triage")  # doctest: +SKIP
    >>> table["verdict"].value_counts()  # doctest: +SKIP
    """
    run(source, workspace, settings or Settings(), say=say)
    return parts.load_table(Workspace(workspace).triage, tables.TRIAGE)


def run(
    archive: Archives | None,
    root: str,
    settings: Settings,
    *,
    steps: Iterable[str] = STEPS,
    is_rescoring: bool = False,
    say: Say = print,
) -> int:
    """Exit code of a run of `steps` on workspace `root`: 0, or 2 when a file or a task failed.

    `archive` is one source or several; only the step ingest needs them. Finished work is not repeated. `is_rescoring`:
    no pixel is read and no worker is started, whatever scheduler the settings name. Raises RuntimeError when another
    run uses `root`.
    """
    workspace = Workspace(root)
    started = time.time()
    settings = resolve_checks(settings, is_forced="featurise" in steps and not is_rescoring)
    steps = tuple(step for step in steps if step != "classify" or settings.classify.model)
    has_workers = not is_rescoring and settings.run.scheduler != IN_PROCESS
    preconditions.verify_samples(settings, steps)
    check_models(settings, steps, say)
    if not has_workers:  # fails now if a requested GPU is missing; preflight checks the GPUs of workers
        to_device(np.zeros(1), settings.run.device)
    if "ingest" in steps:
        _claim(archive or (), workspace, settings)
    sources = marker.read_sources(root)
    source = marker.describe_sources(sources)
    seconds: dict[str, float] = {}
    with lock.hold_lock(root, say) as run_lock, ExitStack() as stack:
        check_workspace(workspace, sources, settings, steps, say, has_pixels=not is_rescoring)
        stored_settings.write_settings(root, settings)
        with journal.open_journal(workspace, run_lock.check) as record:
            execute = RunExecutor(root, settings, record, say, stack, has_workers=has_workers)
            if "ingest" in steps:
                if left_out := ingest.ingest(workspace, sources, settings, execute):
                    say(left_out)
                seconds["survey"] = time.time() - started
            if settings.detect.is_automatic and "detect" in steps:
                start_time_s = time.time()
                choose_detectors(workspace, settings, execute, say)
                seconds["choose"] = time.time() - start_time_s
            seconds |= _make_tables(workspace, settings, steps, execute)
        n_failures = write_failures(workspace, settings)
        if "report" in steps:
            start_time_s = time.time()
            with journal.open_journal(workspace, run_lock.check) as execute.record:
                n_failures += _report(workspace, source, settings, steps, started, execute, say)
            seconds["report"] = time.time() - start_time_s
    say("time: " + ", ".join(f"{name} {format_duration(s)}" for name, s in seconds.items()))
    return 2 if n_failures else 0


def check_models(settings: Settings, steps: Collection[str], say: Say) -> None:
    """Raises an error, with the remedy, for a missing or damaged model of `steps`; reports models that do not fit."""
    if not steps:
        raise SettingsError("nothing is classified without a model: give --classifier MODEL_DIR")
    preconditions.verify_agreement(settings)
    preconditions.verify_models(settings, steps)
    if settings.classify.model:
        from emqa_dask.classify import classifier_card as classifier_cards
        from emqa_dask.uncertainty import classification

        model_card = classifier_cards.read_classifier_card(settings.classify.model)
        classification.load_classifier(model_card.directory)  # raises for missing or changed files
        if model_card.faults:
            left_out = "; ".join(f"{file}: {fault}" for file, fault in model_card.faults.items())
            say(f"{model_card.name}: {len(model_card.files)} of {model_card.n_members} members are used ({left_out})")
    if "predict" in steps:
        say_unfit_models(settings, say)


def _claim(archive: Archives, workspace: Workspace, settings: Settings) -> None:
    """Makes `workspace` the workspace of `archive`, unless a source of it does not exist."""
    sources = name_sources(list_sources(archive))
    ArchiveFiles(sources, settings.archive).check_sources()
    marker.claim_workspace(workspace.uri, sources)


def check_workspace(
    workspace: Workspace,
    sources: marker.Sources,
    settings: Settings,
    steps: Collection[str],
    say: Say,
    *,
    has_pixels: bool,
) -> None:
    """Removes partial files of a killed run, and puts damaged files aside."""
    for folder in ("", journal.EVENTS, SURVEY_FILES, SURVEY_FRAMES, *list_run_folders(settings).values()):
        files.remove_partial_files(files.join(workspace.uri, folder))
    integrity.put_aside_damaged_tables(
        workspace, settings, say, has_pixels=has_pixels and bool(STEPS_WITH_PIXELS.intersection(steps))
    )
    if "ingest" not in steps:
        preconditions.require_tables(workspace, sources)


def _make_tables(
    workspace: Workspace, settings: Settings, steps: Collection[str], execute: RunExecutor
) -> dict[str, float]:
    """Seconds by the names of the steps. Makes the tables of `steps`."""
    start_time_s = time.time()
    steps = [step for step in steps if list_step_tables(step)]
    if not steps:
        return {}
    make_tables(workspace, settings, steps, execute)
    return {", ".join(step for step in steps if step != "ingest") or "store": time.time() - start_time_s}


def _report(
    workspace: Workspace,
    source: str,
    settings: Settings,
    steps: Collection[str],
    started: float,
    execute: RunExecutor,
    say: Say,
) -> int:
    """Number of rows without a result. Writes the report unless it is up to date, and prints its counts."""
    failures = parts.load_table(workspace.failures, tables.FAILURES)
    if tuple(steps) == ("report",):
        preconditions.require_parts(workspace, settings)
    times = journal.summarise_times(workspace)
    run_facts = RunFacts(
        started,
        times.stage_seconds,
        failures,
        times.wall_s,
        times.n_workers,
        times.peak_memory_bytes,
        times.gpu_time.compute_percent(),
    )
    is_new = report(workspace, source, settings, run_facts, execute if execute.is_quick else None)
    tell(workspace, say)
    for line in read_advice(workspace, settings).describe():
        say(line)
    say(f"report: {workspace.report_page}" + ("" if is_new else " (nothing was new)"))
    return provenance.count_unfinished(workspace)


def tell(workspace: Workspace, say: Say) -> None:
    """Prints the number of micrographs by verdict with the main reasons, from provenance.json."""
    facts = provenance.read(workspace)
    if not facts:
        say(
            f"  {files.redact(workspace.provenance)} is damaged: "
            f"{marker.format_command('report', workspace.uri)} writes it again"
        )
        return
    width = max(map(len, tables.VERDICTS))
    for verdict in tables.VERDICTS:
        main_reasons = list(facts.get("first_reasons", {}).get(verdict, {}).items())[:4]
        text = ", ".join(f"{code} {n}" for code, n in main_reasons) if verdict != "trust" else ""
        say(f"  {verdict:<{width}} {facts['verdicts'].get(verdict, 0):>7,}" + (f"   {text}" if text else ""))
    for line in describe_classifications(facts.get("classifications", {})):
        say(line)


def describe_classifications(counts: Mapping) -> list[str]:
    """Two lines on the classes of micrographs and on those that are uncertain or out of domain; none without any."""
    if not counts:
        return []
    classes = ", ".join(f"{name} {n:,}" for name, n in counts["classes"].items())
    limit = counts["entropy_limit_nats"]
    limit_text = "" if limit is None else f" (predictive entropy above {limit:.2f} nats)"
    shifts = ", ".join(f"{kind} {n:,}" for kind, n in counts["shifts"].items())
    n_shifted = sum(counts["shifts"].values())
    return [
        f"  classes of {', '.join(counts['names'])}: {classes}",
        f"    uncertain {counts['uncertain']:,}{limit_text}; out of domain {n_shifted:,} ({shifts})",
    ]
