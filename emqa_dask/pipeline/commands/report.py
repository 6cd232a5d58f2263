"""emqa report: writes triage.parquet, triage.csv, flags.parquet, the page and provenance.json from a run's tables."""

import platform
import time
from contextlib import ExitStack
from typing import NamedTuple

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.commands.report_facts import collect_facts, digest_models, list_networks
from emqa_dask.pipeline.commands.report_key import compute_report_key
from emqa_dask.pipeline.commands.report_page import render_page, write_sessions
from emqa_dask.pipeline.commands.report_samples import write_samples
from emqa_dask.pipeline.commands.report_verdicts import decide_batches
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.report import spreadsheet
from emqa_dask.report.classifier_counts import ClassifierCounts
from emqa_dask.report.triage_counts import Overview
from emqa_dask.run.executor import Executor
from emqa_dask.settings import Settings
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

MIN_MICROGRAPHS_OF_WORKERS = 50_000  # of smaller workspaces this process reads the tables before workers have started


class RunFacts(NamedTuple):
    """Facts about a run for the page and provenance.json."""

    started: float  # s since the epoch
    seconds: dict[str, float]  # of workers, by stage
    failures: pd.DataFrame  # rows of tables.FAILURES


def report(
    workspace: Workspace, source: str, settings: Settings, run_facts: RunFacts, execute: Executor | None = None
) -> bool:
    """Whether a report was written: decides the verdicts and writes tables and page unless they are up to date.

    Memory grows by about 50 bytes per micrograph. `execute` runs tasks on the workers of a run, if it has some, for
    workspaces of at least MIN_MICROGRAPHS_OF_WORKERS; without it, all is done in this process.
    """
    key = compute_report_key(workspace, settings, run_facts.failures)
    stored = provenance.read(workspace)
    if stored.get("report_key") == key and not provenance.find_damaged_outputs(workspace, stored):
        return False
    if parts.count_rows(workspace.micrographs) < MIN_MICROGRAPHS_OF_WORKERS:
        execute = None
    overview, classes = _write_tables(workspace, settings, run_facts.failures, execute)
    section = write_sessions(workspace, settings, classes)
    samples = write_samples(workspace, settings)
    facts = run_facts._asdict() | collect_facts(workspace, source, settings)
    with files.write_whole(workspace.report_page) as stream:
        for text in render_page(workspace, overview, settings, facts, section, samples):
            stream.write(text.encode())
    record = {name: facts[name] for name in ("command", "archive", "started", "seconds", "versions")}
    record |= {
        "finished": time.time(),
        "host": platform.node(),
        "folders": list_run_folders(settings),
        "quality_models": digest_models(settings.predict.models),
        "networks": digest_models(list_networks(settings)),
        "verdicts": dict(overview.verdicts.most_common()),
        "first_reasons": {verdict: dict(counts.most_common()) for verdict, counts in overview.first_reasons.items()},
        "report_key": key,
    }
    provenance.write(workspace, record, _list_outputs(workspace, settings))
    return True


def _write_tables(
    workspace: Workspace, settings: Settings, failures: pd.DataFrame, execute: Executor | None
) -> tuple[Overview, ClassifierCounts]:
    """Counts over all rows, for the page. Writes triage.parquet, triage.csv and flags.parquet."""
    overview = Overview(settings.report.max_rows)
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
            triage = decisions.triage.to_pandas()
            overview.add(triage)
            classes.add(triage, decisions.classifications.to_pandas())
    return overview, classes


def _list_outputs(workspace: Workspace, settings: Settings) -> list[str]:
    """The files of a report."""
    own_outputs = [workspace.triage, workspace.flags, workspace.samples, workspace.triage_csv, workspace.report_page]
    return own_outputs + ([workspace.drifts, workspace.sessions] if settings.classify.model else [])
