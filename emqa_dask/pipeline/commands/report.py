"""emqa report: writes triage.parquet, triage.csv, flags.parquet, the page and provenance.json from a run's tables."""

import os
import platform
import time
from contextlib import ExitStack
from typing import NamedTuple

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_facts import collect_facts, digest_models, list_networks
from emqa_dask.pipeline.commands.report_images import write_image_pages
from emqa_dask.pipeline.commands.report_key import compute_report_key
from emqa_dask.pipeline.commands.report_page import ReportPages, Source, write_sessions
from emqa_dask.pipeline.commands.report_samples import write_samples
from emqa_dask.pipeline.commands.report_verdicts import decide_batches
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.report import ro_crate, spreadsheet
from emqa_dask.report.classifier_counts import ClassifierCounts
from emqa_dask.report.page_content import ReportedWorkspace
from emqa_dask.run.executor import Executor
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

IMAGE_PAGE = "micrograph.html"  # in the folder of the report: the page of each image
MIN_MICROGRAPHS_OF_PAGE_WORKERS = 1000  # a page takes 1.6 ms, and workers about 3 s to start
MIN_MICROGRAPHS_OF_WORKERS = 50_000  # of smaller workspaces this process reads the tables before workers have started


class RunFacts(NamedTuple):
    """Facts about a run for the page and provenance.json."""

    started: float  # s since the epoch
    seconds: dict[str, float]  # of workers, by stage
    failures: pd.DataFrame  # rows of tables.FAILURES
    wall_s: float = 0.0  # of all runs, without what was between them; 0 where it is unknown
    n_workers: int = 0  # of the run with the most workers
    peak_memory_bytes: int = 0  # of a worker, the largest
    gpu_percent: float | None = None  # mean utilisation of the GPUs while their tasks ran; None: not measured


def report(
    workspace: Workspace, source: str, settings: Settings, run_facts: RunFacts, execute: Executor | None = None
) -> bool:
    """Whether a report was written: decides the verdicts and writes tables and page unless they are up to date.

    Memory grows by about 50 bytes per micrograph. `execute` runs tasks on the workers of a run, if it has some, for
    workspaces of at least MIN_MICROGRAPHS_OF_WORKERS, and for the pages of images from MIN_MICROGRAPHS_OF_PAGE_WORKERS
    on; without it, all is done in this process.
    """
    key = compute_report_key(workspace, settings, run_facts.failures)
    stored = provenance.read(workspace)
    if stored.get("report_key") == key and not provenance.find_damaged_outputs(workspace, stored):
        return False
    # Pictures take about 40 ms of a processor for each megapixel, so that workers are worth their start.
    n_micrographs = parts.count_rows(workspace.micrographs)
    is_worth_workers = settings.report.pictures == "full" or n_micrographs >= MIN_MICROGRAPHS_OF_PAGE_WORKERS
    execute_pages = execute if is_worth_workers else None
    if n_micrographs < MIN_MICROGRAPHS_OF_WORKERS:
        execute = None
    pages = ReportPages(workspace.report_folder, key, settings.report.max_rows, has_classes=has_classes(settings))
    classes = _write_tables(workspace, settings, run_facts.failures, execute, pages)
    section = write_sessions(workspace, settings, classes)
    samples = write_samples(workspace, settings)
    facts = run_facts._asdict() | collect_facts(workspace, source, settings)
    overview = pages.overview
    listed = overview.choose_shown_rows()
    page_files = write_image_pages(workspace, settings, facts, listed, execute_pages)
    summary = describe_workspace(workspace, source, overview.n_rows)
    page_files += pages.write_index([Source(workspace, settings, summary)], facts, section, samples)
    record = {name: facts[name] for name in ("command", "archive", "started", "seconds", "versions")}
    record |= {
        "finished": time.time(),
        "host": platform.node(),
        "folders": list_run_folders(settings),
        "quality_models": digest_models(settings.predict.models),
        "networks": digest_models(list_networks(settings)),
        "verdicts": dict(overview.verdicts.most_common()),
        "first_reasons": {verdict: dict(counts.most_common()) for verdict, counts in overview.first_reasons.items()},
        "classifications": classes.summarise(),
        "report_key": key,
    }
    last_name = workspace.provenance.rpartition("/")[2]  # is written last
    names = sorted({*files.list_names(workspace.uri), last_name})
    parts.write_json(workspace.ro_crate, ro_crate.describe_crate(names, record))
    outputs = [*_list_outputs(workspace, settings), *page_files, workspace.ro_crate]
    provenance.write(workspace, record, outputs)
    return True


def has_classes(settings: Settings) -> bool:
    """Whether rows have the columns of a classifier."""
    return bool(settings.classify.model)


def describe_workspace(workspace: Workspace, source: str, n_rows: int, folder: str = "") -> ReportedWorkspace:
    """What a page says of a workspace; `folder`: of its own report as seen from the page, "" for its own page."""
    root = f"{source.rstrip('/')}/" if os.path.isdir(source) else ""
    name = workspace.uri.rstrip("/").rpartition("/")[2].removesuffix(".emqa")
    has_image_pages = files.exists(files.join(workspace.report_folder, IMAGE_PAGE))
    images = folder if has_image_pages else None
    return ReportedWorkspace(files.redact(name), files.redact(root), n_rows, f"{folder}index.html", images)


def _write_tables(
    workspace: Workspace, settings: Settings, failures: pd.DataFrame, execute: Executor | None, pages: ReportPages
) -> ClassifierCounts:
    """Counts of the classifier. Writes triage.parquet, triage.csv and flags.parquet; adds all rows to `pages`."""
    classes = ClassifierCounts()
    with ExitStack() as stack:
        write_triage = stack.enter_context(parts.open_table_writer(workspace.triage, tables.TRIAGE))
        write_flags = stack.enter_context(parts.open_table_writer(workspace.flags, tables.FLAGS))
        csv = stack.enter_context(files.write_whole(workspace.triage_csv))
        csv.write(spreadsheet.format_triage_csv(tables.empty(tables.TRIAGE)).encode(spreadsheet.ENCODING))
        for decisions in decide_batches(workspace, settings, failures, execute):
            write_triage(decisions.triage)
            write_flags(decisions.flags)
            csv.write(decisions.lines["text"][0].as_buffer())
            classes.add(pages.add(decisions.triage), decisions.classifications.to_pandas())
    return classes


def _list_outputs(workspace: Workspace, settings: Settings) -> list[str]:
    """The files of a report."""
    own_outputs = [
        workspace.triage,
        workspace.flags,
        workspace.duplicate_groups,
        workspace.samples,
        workspace.triage_csv,
    ]
    return own_outputs + ([workspace.drifts, workspace.sessions] if settings.classify.model else [])
