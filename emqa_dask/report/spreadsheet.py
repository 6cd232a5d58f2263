"""triage.csv and review_plan.csv: tables as text that a spreadsheet opens without harm."""

import csv
import io
import unicodedata

import pandas as pd
import pyarrow as pa

from emqa_dask import tables

# A spreadsheet takes a cell that starts so for a formula, and a file's name can be one (OWASP, "CSV Injection"). Wide
# and small forms of these signs count as the plain ones (NFKC), and what is not seen before them does not count.
FORMULA_STARTS = ("=", "+", "-", "@", "\u2212")
INVISIBLE_CATEGORIES = ("Cc", "Cf", "Cs", "Co", "Cn", "Zs", "Zl", "Zp", "Mn", "Me")
INVISIBLE_LETTERS = "\u115f\u1160\u2800\u3164\uffa0"  # letters and signs without ink
MAX_CELL_CHARACTERS = 32_000  # Excel cuts a cell after 32,767 and puts the rest into further rows
ENCODING = "utf-8-sig"  # of the file; without the byte order mark Excel shows µ as Âµ
PLAN_COLUMNS = ["position", "uri", "frame", "sample", "review_probability", "gain", "why"]
TEXT_COLUMNS = [field.name for field in tables.TRIAGE if pa.types.is_string(field.type) or pa.types.is_list(field.type)]


def defuse_formula(text: str) -> str:
    """`text`, with an apostrophe in front where a spreadsheet could run it as a formula or drop what it starts with.

    It could where the first character that is seen is a sign of FORMULA_STARTS, also in another form.
    """
    if not text or (text[0].isascii() and text[0].isalnum()):  # nearly every cell
        return text
    if text[0] in "\t\r\n":
        return f"'{text}"
    first_visible = next(
        (c for c in text if unicodedata.category(c) not in INVISIBLE_CATEGORIES and c not in INVISIBLE_LETTERS), ""
    )
    return f"'{text}" if unicodedata.normalize("NFKC", first_visible).startswith(FORMULA_STARTS) else text


def format_triage_csv(triage: pd.DataFrame, header: bool = True) -> str:
    """`triage` as CSV text: a header line, `reasons` joined by ";", every text quoted, unknown numbers empty.

    Without `header` it is a further piece of such text.
    Text that a spreadsheet would run as a formula gets an apostrophe in front (see defuse()), so a URI that starts with
    one of FORMULA_STARTS is not exactly the file's name here; triage.parquet holds it as it is. Numbers are never
    changed; their decimal point is a dot. Texts end with "..." after MAX_CELL_CHARACTERS.
    Lines end in \\n, also inside names that contain one; write the header in ENCODING, further pieces as UTF-8, and all
    with newline="". No rows give the header.
    """
    table = triage.copy()
    table["reasons"] = [";".join(map(defuse_formula, reason_codes)) for reason_codes in table["reasons"]]
    for column in TEXT_COLUMNS:  # not by dtype: a column without any text may have another
        text = table[column].astype(object).where(table[column].notna(), "").astype(str)
        table[column] = text.map(defuse_formula).map(_shorten)
    return _write_csv(table, header)


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_CELL_CHARACTERS else f"{text[:MAX_CELL_CHARACTERS]}..."


def format_plan_csv(plan: pd.DataFrame) -> str:
    """The drawn images of `plan` (tables.REVIEW_PLAN) as CSV text, as in format_triage_csv()."""
    table = plan.loc[plan["position"].notna(), PLAN_COLUMNS].astype({"position": int})
    for column in ("uri", "sample", "why"):
        table[column] = table[column].map(defuse_formula)
    return _write_csv(table)


def _write_csv(table: pd.DataFrame, header: bool = True) -> str:
    text = io.StringIO()
    table.to_csv(text, index=False, header=header, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    return text.getvalue()
