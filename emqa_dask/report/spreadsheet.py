"""triage.csv: the triage table as text that a spreadsheet opens without harm."""

import csv
import io

import pandas as pd
import pyarrow as pa

from emqa_dask import tables

# A spreadsheet takes a cell that starts so for a formula, and a file's name can be one (OWASP, "CSV Injection").
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
TEXTS = [field.name for field in tables.TRIAGE if pa.types.is_string(field.type) or pa.types.is_list(field.type)]


def triage_csv(triage: pd.DataFrame, header: bool = True) -> str:
    """`triage` as CSV text: a header line, `reasons` joined by ";", every text quoted, unknown numbers empty.

    Without `header` it is a further piece of such text.
    Text that a spreadsheet would run as a formula gets an apostrophe in front, so a URI that starts with one of
    FORMULA_STARTS is not exactly the file's name here; triage.parquet holds it as it is. Numbers are never changed.
    Lines end in \\n, also inside names that contain one; write it as UTF-8 with newline="". No rows give the header.
    """
    table = triage.copy()
    table["reasons"] = [";".join(codes) for codes in table["reasons"]]
    for column in TEXTS:  # not by dtype: a column without any text may have another
        text = table[column].astype(object).where(table[column].notna(), "").astype(str)
        table[column] = text.where(~text.str.startswith(FORMULA_STARTS), "'" + text)
    text = io.StringIO()
    table.to_csv(text, index=False, header=header, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.getvalue()
