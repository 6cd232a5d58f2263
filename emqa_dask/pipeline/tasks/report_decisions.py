"""Verdicts on some thousand rows of files and micrographs, with their flags and their lines of triage.csv."""

from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from emqa_dask import tables
from emqa_dask.report import spreadsheet
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.settings import Settings
from emqa_dask.store.arrow_streams import read_streams, write_streams
from emqa_dask.triage import decide
from emqa_dask.triage.custom_checks import list_rules
from emqa_dask.triage.rows import FILE_FRAME, ROWS, list_classifications

COHORT = ROWS.field("session").with_name("cohort")
CLASSIFICATIONS = pa.schema([*tables.CLASSIFICATIONS, COHORT, ROWS.field("entropy_limit_nats")])


class Decisions(NamedTuple):
    """What a report needs of a batch of rows."""

    triage: pa.Table  # tables.TRIAGE
    flags: pa.Table  # tables.FLAGS, in the order of `triage`
    classifications: pa.Table  # CLASSIFICATIONS
    lines: pa.Table  # `triage` as text of triage.csv, one value of UTF-8


def write_decisions(source_uri: str, uri: str, *args, call: Call = call_directly) -> dict:
    """Record of a task that writes decide_rows() into the file `uri`, for the rows in the file `source_uri`."""
    decisions = decide_rows(*read_streams(source_uri), *args)
    write_streams(uri, decisions)
    return {"n_images": len(decisions.triage)}


def decide_rows(rows: pa.Table, copy_flags: pd.DataFrame, settings: Settings, entropy_limit_nats: float) -> Decisions:
    """Decisions on `rows`: columns of triage.rows.ROWS, and `flags`, a list of what tables.FLAGS has of each.

    copy_flags: flags of copies, which come last: `row`, a position among the micrographs of `rows`, and columns of
    tables.FLAGS. Raises ValueError where a micrograph or a file occurs twice.
    """
    frame = rows.drop_columns("flags").to_pandas().assign(entropy_limit_nats=entropy_limit_nats)
    flags = _list_flags(rows.filter(frame["frame"].ne(FILE_FRAME).to_numpy()), copy_flags)
    triage = decide(frame, flags, settings.triage, list_rules(settings.flags))
    lines = spreadsheet.format_triage_csv(triage, header=False).encode()
    return Decisions(
        tables.conform(triage, tables.TRIAGE),
        tables.conform(flags, tables.FLAGS),
        tables.conform(list_classifications(frame), CLASSIFICATIONS),
        pa.table({"text": pa.array([lines], pa.large_binary())}),
    )


def _list_flags(micrographs: pa.Table, copy_flags: pd.DataFrame) -> pd.DataFrame:
    """Rows of tables.FLAGS of `micrographs`; the flag of a copy comes last."""
    listed = micrographs["flags"].combine_chunks()
    flags = pa.Table.from_struct_array(listed.flatten()).to_pandas()
    flags["row"] = listed.value_parent_indices().to_numpy(zero_copy_only=False)
    flags = pd.concat([flags, copy_flags], ignore_index=True) if len(copy_flags) else flags
    flags = flags.sort_values("row", kind="stable", ignore_index=True)
    ids = micrographs["micrograph_id"].to_numpy()
    flags["micrograph_id"] = ids[flags["row"].to_numpy(int)]
    return tables.conform(flags[tables.FLAGS.names], tables.FLAGS).to_pandas()
