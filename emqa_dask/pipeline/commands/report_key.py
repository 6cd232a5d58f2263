"""Key of the stored report: a digest of all that the report depends on. An unchanged key keeps the report."""

import dataclasses
import hashlib
from pathlib import Path

import pandas as pd

import emqa_dask
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings, digest
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.triage.custom_checks import list_rules

PACKAGE = Path(emqa_dask.__file__).parent
# Code and templates that the tables and the page of a report are made by. Their text counts, instead of a version that
# somebody has to raise: a report made once too often costs seconds, an old one that looks new costs trust.
SOURCES = (
    "triage/*",
    "report/*",
    "measure/*",
    "review/*",
    "uncertainty/*",
    "tables/*",
    "pipeline/commands/report*",
    "pipeline/tasks/report*",
    "pipeline/workspace/*",
)
SUFFIXES = {".py", ".j2", ".css", ".js"}


def compute_report_key(workspace: Workspace, settings: Settings, failures: pd.DataFrame) -> str:
    """Digest of tables, catalog, ledger, failures, decisions, limits, rules, templates and code of a report.

    Large files are not read: a part never changes, and catalog and ledger only together with their date.
    """
    table_folders = list_run_folders(settings)
    part_names = [parts.list_parts(workspace.uri, folder) for folder in table_folders.values()]
    return digest(
        table_folders,
        [[len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()] for names in part_names],
        [provenance.read_file_version(uri) for uri in (workspace.catalog, workspace.micrographs, workspace.alarms)],
        hashlib.sha256("\n".join(files.list_names(workspace.decisions)).encode()).hexdigest(),
        hashlib.sha256(failures.to_json(orient="records").encode()).hexdigest(),
        [dataclasses.asdict(record) for record in (settings.flags, settings.triage, settings.report)],
        [_digest_file(name) for name in settings.report.samples if name.lower().endswith(".csv")],
        [rule._asdict() for rule in list_rules(settings.flags)],
        emqa_dask.__version__,
        digest_code(PACKAGE),
    )


def _digest_file(path: str) -> str:
    """SHA-256 of a file's bytes; "" where it does not exist."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest() if Path(path).exists() else ""


def digest_code(package: Path) -> str:
    """SHA-256 of the names and contents of SOURCES in the folder `package`."""
    sha256 = hashlib.sha256()
    paths = {path for pattern in SOURCES for path in package.glob(pattern) if path.suffix in SUFFIXES}
    for path in sorted(paths):
        content = path.read_bytes()
        sha256.update(f"{path.relative_to(package).as_posix()}\0{len(content)}\0".encode())
        sha256.update(content)
    return sha256.hexdigest()
