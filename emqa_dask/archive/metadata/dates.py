"""Dates of acquisition as ISO 8601, from the notations that instruments use."""

import contextlib
import re
from datetime import datetime, timedelta
from functools import cache
from typing import Any, ClassVar

from emqa_dask.archive.metadata.values import clean_text

CLOCK_TOLERANCE = timedelta(hours=15)  # between local time and UTC, and for a slow clock
MAX_UTC_S = 4e9  # the year 2096
_ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[ T]\d\d:\d\d:\d\d)?")
# German names of months (and their short forms) and days, which dateutil does not know.
_GERMAN_MONTHS = (
    ("Januar", "Jan", "Jänner"), ("Februar", "Feb"), ("März", "Mrz", "Mär"), ("April", "Apr"), ("Mai",),
    ("Juni", "Jun"), ("Juli", "Jul"), ("August", "Aug"), ("September", "Sep", "Sept"), ("Oktober", "Okt"),
    ("November", "Nov"), ("Dezember", "Dez"),
)  # fmt: skip
_GERMAN_DAYS = (
    ("Montag", "Mo"), ("Dienstag", "Di"), ("Mittwoch", "Mi"), ("Donnerstag", "Do"), ("Freitag", "Fr"),
    ("Samstag", "Sa"), ("Sonntag", "So"),
)  # fmt: skip


def parse_date(value: Any, time: Any = None, *, month_first: bool = False) -> str | None:
    """A date (and time) as ISO 8601; None when it cannot be read.

    Takes 2019-12-05, 2018:11:15 19:42:31, 5 Dec 2019, 5. Dezember 2019, 05.12.2019. month_first: how 05/12/2019 is
    read; dates with dots begin with the day, as in German.
    """
    date_text = " ".join(part for part in (clean_text(value), clean_text(time)) if part)[:64]
    date_text = re.sub(r"^(\d{4}):(\d\d):(\d\d)", r"\1-\2-\3", date_text).removesuffix("Z")
    if not date_text:
        return None
    if _ISO_DATE.fullmatch(date_text):  # most dates; the parser takes forty times as long
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(date_text).isoformat()
    try:
        from dateutil import parser

        is_dotted = re.match(r"(?:\D+\s)?\d{1,2}\.\s?(?:\d{1,2}\.|[^\W\d])", date_text) is not None
        if is_dotted:
            date_text = re.sub(r"(\d)\.\s?(?=[^\W\d])", r"\1 ", date_text)
        options = {
            "dayfirst": is_dotted or (not month_first and not re.match(r"\d{4}", date_text)),
            "parserinfo": _make_parser_info(),
        }
        # The parser fills absent parts from a default; two defaults with different results reveal an incomplete date.
        date = parser.parse(date_text, default=datetime(2001, 1, 1), **options)
        other_date = parser.parse(date_text, default=datetime(2002, 2, 2), **options)
        return date.isoformat() if date.date() == other_date.date() else None
    except (ValueError, ArithmeticError, TypeError):  # isoformat() refuses a time zone of more than a day
        return None


def parse_date_near(value: Any, time: Any, utc_s: float) -> str | None:
    """A date and time as ISO 8601, of the two readings of 5/12/2019 the one that is near `utc_s`.

    utc_s: seconds since 1970 that the file states besides; 0 for unknown. Without a text, the result is this time.
    """
    day_first = parse_date(value, time)
    month_first = parse_date(value, time, month_first=True)
    if not 0 < utc_s < MAX_UTC_S:
        return day_first
    utc = datetime(1970, 1, 1) + timedelta(seconds=utc_s)
    if day_first is None:
        return utc.isoformat(timespec="seconds") + "+00:00"
    is_near = month_first is not None and abs(_drop_zone(month_first) - utc) < CLOCK_TOLERANCE
    is_far = abs(_drop_zone(day_first) - utc) >= CLOCK_TOLERANCE
    return month_first if is_near and is_far else day_first


def _drop_zone(iso: str) -> datetime:
    return datetime.fromisoformat(iso).replace(tzinfo=None)


@cache
def _make_parser_info() -> Any:
    """What dateutil takes for months and weekdays: English and German names."""
    from dateutil import parser

    class EnglishAndGerman(parser.parserinfo):
        MONTHS: ClassVar = [(*names, *german) for names, german in zip(parser.parserinfo.MONTHS, _GERMAN_MONTHS)]
        WEEKDAYS: ClassVar = [(*names, *german) for names, german in zip(parser.parserinfo.WEEKDAYS, _GERMAN_DAYS)]
        JUMP: ClassVar = [*parser.parserinfo.JUMP, "um", "Uhr"]

    return EnglishAndGerman()
