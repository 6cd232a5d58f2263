"""triage.csv reads back as it was, except that nothing in it is a formula."""

import csv
import io

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.report.spreadsheet import defuse_formula, format_triage_csv
from emqa_dask.settings import Triage
from tests.archive_tables import decide_archive


def test_every_row_and_name_reads_back(archive):
    rows = decide_archive(**archive(60, 1), settings=Triage())
    read = list(csv.DictReader(io.StringIO(format_triage_csv(rows), newline="")))
    assert len(read) == len(rows)
    assert list(read[0]) == tables.TRIAGE.names
    for there, here in zip(read, rows.itertuples()):
        assert there["uri"].removeprefix("'") == here.uri
        assert there["reasons"] == ";".join(here.reasons)
        assert there["explanation"].removeprefix("'") == here.explanation
        assert (float(there["predicted_f1"]) if there["predicted_f1"] else None) == (
            None if pd.isna(here.predicted_f1) else here.predicted_f1
        )


@settings(deadline=None)
@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_no_text_is_a_formula_and_no_name_is_lost(name):
    rows = tables.empty(tables.TRIAGE).reindex([0]).assign(uri=name, reasons=[["blur", "banner"]], predicted_f1=-1.0)
    cells = next(csv.DictReader(io.StringIO(format_triage_csv(rows), newline="")))
    assert not cells["uri"].startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert cells["uri"] in (name, f"'{name}")
    assert float(cells["predicted_f1"]) == -1
    assert cells["reasons"] == "blur;banner"


# What Excel, LibreOffice and Google Sheets are known to run: OWASP's list, wide and small forms, and what is dropped
# before a cell is looked at.
SIGNS = ["=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20", "\ufe66", "\ufe62", "\ufe63", "\ufe6b", "\u2212"]
BEFORE = [
    "",
    " ",
    "  ",
    "\t",
    "\n",
    "\r",
    "\xa0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\ufeff",
    "\u202e",
    "\xad",
    "\ufe0f",
    " \u2060\t",
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("sign", SIGNS)
def test_hidden_and_wide_formulas_get_an_apostrophe(before, sign):
    text = f"{before}{sign}HYPERLINK(1)"
    rows = tables.empty(tables.TRIAGE).reindex([0]).assign(uri=text, explanation=text, reasons=[["blur", text]])
    cells = next(csv.DictReader(io.StringIO(format_triage_csv(rows), newline="")))
    assert cells["uri"] == cells["explanation"] == f"'{text}"
    assert cells["reasons"] == f"blur;'{text}"


@pytest.mark.parametrize("text", ["a=b", "1-2.tif", " a.tif", "\xc4-1.tif", "_=1", "(=1)", "\u3000x", "run\t=1", ""])
def test_harmless_names_stay_as_they_are(text):
    assert defuse_formula(text) == text


def test_what_a_classifier_says_comes_along(archive, classifications):
    given_ = archive(40, 1)
    answers = classifications(given_["micrographs"], 1).assign(predicted_class="=A1")
    rows = decide_archive(**given_, settings=Triage(), classifications=answers)
    read = list(csv.DictReader(io.StringIO(format_triage_csv(rows), newline="")))
    assert {there["predicted_class"] for there in read} == {"", "'=A1"}
    for there, here in zip(read, rows.itertuples()):
        assert there["shift"] == ("" if pd.isna(here.shift) else here.shift)
        for column in ("class_probability", "predictive_entropy_nats", "mutual_information_nats", "shift_score"):
            number = getattr(here, column)
            assert there[column] == "" if pd.isna(number) else float(there[column]) == number


def test_long_texts_fit_into_a_cell():
    rows = tables.empty(tables.TRIAGE).reindex([0]).assign(uri="=" + "\u00b5" * 50_000, reasons=[["blur"]])
    cells = next(csv.DictReader(io.StringIO(format_triage_csv(rows), newline="")))
    assert cells["uri"] == "'=" + "\u00b5" * 31_998 + "..."


def test_no_rows_give_the_header():
    assert format_triage_csv(tables.empty(tables.TRIAGE)).strip() == ",".join(f'"{n}"' for n in tables.TRIAGE.names)
