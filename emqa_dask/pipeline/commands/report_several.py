"""emqa report WS1 WS2 ... --out DIR: one report of the verdicts of several workspaces."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from urllib.parse import quote

from emqa_dask import tables
from emqa_dask.pipeline.commands.report import describe_workspace, has_classes
from emqa_dask.pipeline.commands.report_facts import list_versions
from emqa_dask.pipeline.commands.report_page import FOLDERS, ReportPages, Source
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.report.page import ASSETS
from emqa_dask.settings import digest
from emqa_dask.store import files, marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

OWN_NAMES = {*FOLDERS, *ASSETS, "index.html"}  # that the folder of a report may contain


def report_several(roots: Sequence[str], out: str, say: Callable[[str], None]) -> int:
    """Exit code 0: writes the report of all rows of the workspaces `roots` into the folder `out`.

    Their verdicts stay as they are. Raises ValueError, with the remedy, for a workspace without verdicts, and for a
    folder with other files.
    """
    others = sorted(set(files.list_names(out)) - OWN_NAMES)
    if others:
        raise ValueError(f"{out} is not the folder of a report (it has {others[0]!r}): give --out a new folder")
    sources = [_read_source(root, out) for root in dict.fromkeys(root.rstrip("/") for root in roots)]
    sources = _name_apart(sources)
    settings = [source.settings for source in sources]
    documents = [provenance.read(source.workspace) for source in sources]
    build = digest([document.get("report_key") for document in documents], [source.summary for source in sources])
    is_classified = any(map(has_classes, settings))
    pages = ReportPages(out, build, settings[0].report.max_rows, has_classes=is_classified)
    for number, source in enumerate(sources):
        for rows in parts.iterate_arrow_tables(source.workspace.triage, tables.TRIAGE):
            pages.add(rows, number)
    facts = {
        "archive": f"{len(sources)} workspaces",
        "n_files": sum(parts.count_rows(source.workspace.catalog) for source in sources),
        "versions": list_versions(),
    }
    pages.write_index(sources, facts)
    say(f"report: {files.join(out, 'index.html')} ({pages.overview.n_rows:,} rows of {len(sources)} workspaces)")
    return 0


def _read_source(root: str, out: str) -> Source:
    """The workspace `root`, and the address of its own report as seen from the folder `out`."""
    sources = marker.read_sources(root)
    workspace = Workspace(root)
    if not files.exists(workspace.triage):
        command = marker.format_command("report", root)
        raise ValueError(f"{root} has no verdicts yet: {command} makes them")
    settings = stored_settings.read_settings(root)
    n_rows = parts.count_rows(workspace.triage)
    summary = describe_workspace(workspace, marker.describe_sources(sources), n_rows, _find_folder(workspace, out))
    return Source(workspace, settings, summary)


def _find_folder(workspace: Workspace, out: str) -> str:
    """Address of the folder of a workspace's own report from the page in `out`, with a slash at its end."""
    if files.is_local(workspace.uri) and files.is_local(out):
        path = os.path.relpath(files.locate(workspace.report_folder)[1], files.locate(out)[1])
        return quote(path) + "/"
    return files.redact(workspace.report_folder) + "/"


def _name_apart(sources: Sequence[Source]) -> list[Source]:
    """`sources` with names of which no two are the same: those that would be get their whole URI."""
    counts = Counter(source.summary.name for source in sources)
    return [
        source._replace(summary=source.summary._replace(name=files.redact(source.workspace.uri)))
        if counts[source.summary.name] > 1
        else source
        for source in sources
    ]
