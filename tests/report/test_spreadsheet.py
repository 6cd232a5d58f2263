"""triage.csv reads back as it was, except that nothing in it is a formula."""

import csv
import io

import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask import tables
from emqa_dask.report.spreadsheet import FORMULA_STARTS, triage_csv
from emqa_dask.report.triage import judge
from emqa_dask.settings import Report


def test_every_row_and_name_reads_back(archive):
    rows = judge(**archive(60, 1), settings=Report())
    read = list(csv.DictReader(io.StringIO(triage_csv(rows), newline="")))
    assert len(read) == len(rows)
    assert list(read[0]) == tables.TRIAGE.names
    for there, here in zip(read, rows.itertuples()):
        assert there["uri"].removeprefix("'") == here.uri
        assert there["reasons"] == ";".join(here.reasons)
        assert there["explanation"].removeprefix("'") == here.explanation
        assert (float(there["predicted_f1"]) if there["predicted_f1"] else None) == (
            None if pd.isna(here.predicted_f1) else here.predicted_f1
        )


@given(name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_no_text_is_a_formula_and_no_name_is_lost(name):
    rows = tables.empty(tables.TRIAGE).reindex([0]).assign(uri=name, reasons=[["blur", "banner"]], predicted_f1=-1.0)
    cells = next(csv.DictReader(io.StringIO(triage_csv(rows), newline="")))
    assert not cells["uri"].startswith(FORMULA_STARTS)
    assert cells["uri"] == ("'" + name if name.startswith(FORMULA_STARTS) else name)
    assert float(cells["predicted_f1"]) == -1
    assert cells["reasons"] == "blur;banner"


def test_what_a_classifier_says_comes_along(archive, classifications):
    given_ = archive(40, 1)
    answers = classifications(given_["micrographs"], 1).assign(predicted_class="=A1")
    rows = judge(**given_, settings=Report(), classifications=answers)
    read = list(csv.DictReader(io.StringIO(triage_csv(rows), newline="")))
    assert {there["predicted_class"] for there in read} == {"", "'=A1"}
    for there, here in zip(read, rows.itertuples()):
        assert there["shift"] == ("" if pd.isna(here.shift) else here.shift)
        for column in ("class_probability", "predictive_entropy_nats", "mutual_information_nats", "shift_score"):
            number = getattr(here, column)
            assert there[column] == "" if pd.isna(number) else float(there[column]) == number


def test_no_rows_give_the_header():
    assert triage_csv(tables.empty(tables.TRIAGE)).strip() == ",".join(f'"{n}"' for n in tables.TRIAGE.names)
