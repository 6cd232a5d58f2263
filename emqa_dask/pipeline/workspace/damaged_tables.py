"""Damaged tables that no run makes again: decisions and plans of a review, estimates, alarms, atom types."""

from collections.abc import Callable

from emqa_dask import tables
from emqa_dask.pipeline.workspace import atom_tables
from emqa_dask.report import spreadsheet
from emqa_dask.store import aside, decisions, files, parts
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]


def read_checksum(uri: str) -> bytes:
    """The checksum of the table at `uri`; empty for a missing table and for a wrong checksum."""
    try:
        return parts.verify_table(uri)
    except (FileNotFoundError, parts.DamagedTable):
        return b""


def put_aside_damaged(workspace: Workspace, say: Say) -> int:
    """Number of damaged tables and decisions; each is put aside and reported with what can be done."""
    remedies = {
        workspace.estimates: "`emqa estimate` makes it again",
        workspace.review_plan: "`emqa review plan` makes it again",
        workspace.alarms: "`emqa watch` writes later alarms into a new table",
        workspace.detector_choices: "the next `emqa triage` chooses the detectors again",
    }
    damaged = {uri: remedy for uri, remedy in remedies.items() if files.exists(uri) and not read_checksum(uri)}
    damaged |= dict.fromkeys(decisions.read_decisions(workspace.uri)[1], "the reviewer has to decide again")
    if workspace.review_plan not in damaged and _is_plan_csv_damaged(workspace):
        damaged[workspace.review_plan_csv] = "`emqa review plan` makes it again"
    for uri, remedy in damaged.items():
        say(f"damaged: {uri}, put aside as {aside.put_aside(workspace.uri, uri)}; {remedy}")
    return len(damaged) + atom_tables.put_aside_damaged(workspace, say)


def _is_plan_csv_damaged(workspace: Workspace) -> bool:
    """Whether the CSV file of a review plan differs from its table."""
    if not (files.exists(workspace.review_plan_csv) and files.exists(workspace.review_plan)):
        return False
    plan = parts.load_table(workspace.review_plan, tables.REVIEW_PLAN)
    return files.read_bytes(workspace.review_plan_csv) != spreadsheet.format_plan_csv(plan).encode(spreadsheet.ENCODING)
