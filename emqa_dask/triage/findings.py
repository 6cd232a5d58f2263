"""Findings: facts that count for rows, as a table of row (position), code of the rule, and text (a sentence)."""

from collections.abc import Iterable

import numpy as np
import pandas as pd


def make_findings(is_found: Iterable, code: str, text: str | pd.Series) -> pd.DataFrame:
    """A finding (row, code, text) for each row where `is_found` holds; `text` is the same for all, or one per row."""
    positions = np.flatnonzero(np.asarray(is_found, bool))
    texts = text.iloc[positions].to_numpy(object) if isinstance(text, pd.Series) else text
    return pd.DataFrame({"row": positions, "code": code, "text": texts}).astype({"row": "int64", "text": object})


def write_sentences(texts: pd.Series) -> pd.Series:
    """`texts` with a capital in front and a full stop at the end."""
    texts = texts.astype(str).str.strip()
    texts = texts.str.replace(r"([^.!?])\Z", r"\1.", regex=True)
    return (texts.str[:1].str.upper() + texts.str[1:]).astype(object)


def format_numbers(pattern: str, values: pd.Series) -> pd.Series:
    """`values` as texts."""
    return pd.Series([pattern.format(value) for value in values], index=values.index, dtype=object)


def round_up(value: float, n_digits: int) -> str:
    """`value` rounded away from trust: a score of 1.001 is above a limit of 1."""
    return f"{np.ceil(value * 10**n_digits - 1e-6) / 10**n_digits:g}"
