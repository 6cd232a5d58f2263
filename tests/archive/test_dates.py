"""Dates of acquisition in the notations of instruments, English and German."""

import pytest

from emqa_dask.archive.metadata.dates import parse_date


@pytest.mark.parametrize(
    "text",
    ["2019-12-05 10:30:00", "5 Dec 2019 10:30", "5. Dezember 2019 10:30", "05.12.2019 10:30:00", "2019:12:05 10:30:00",
     "Donnerstag, 5. Dezember 2019 10:30:00", "Do 05.12.2019 10:30", "5. Dez. 2019 10:30", "05.12.2019, 10:30 Uhr"],
)  # fmt: skip
def test_notations_of_one_time(text):
    assert parse_date(text) == parse_date(text, month_first=True) == "2019-12-05T10:30:00"


def test_german_months():
    names = ["Januar", "Februar", "März", "April", "Mai", "Juni", "Juli", "August", "September", "Oktober", "November"]
    assert [parse_date(f"3. {name} 2021") for name in names] == [f"2021-{k:02d}-03T00:00:00" for k in range(1, 12)]
    assert parse_date("3. Mrz 2021") == "2021-03-03T00:00:00"


def test_slashes_follow_the_instrument():
    assert parse_date("05/12/2019", month_first=True) == "2019-05-12T00:00:00"
    assert parse_date("05/12/2019") == "2019-12-05T00:00:00"


IMPOSSIBLE = ("2026-09-14 13:42:09 +9999", f"10 {'9' * 30}.9h")


@pytest.mark.parametrize("text", ["", "Dezember", "10:30", "x", None, "2019", *IMPOSSIBLE])
def test_incomplete_dates_are_none(text):
    assert parse_date(text) is None
