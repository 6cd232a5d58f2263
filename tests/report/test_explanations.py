"""The dictionary of explanations: every word of a row's texts is in it, numbers and names are not."""

import re

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.report import explanations
from emqa_dask.report.explanations import Explanations
from emqa_dask.settings import Triage
from tests.archive_tables import decide_archive


def make_rows(texts, because):
    rows = tables.empty(tables.TRIAGE).reindex(range(len(texts))).assign(explanation=texts, because=because)
    return tables.conform(rows.assign(reasons=[[]] * len(texts)), tables.TRIAGE)


def find_rows(dictionary, numbers, word):
    """Positions of the rows that have `word`, as the page finds them."""
    sentences, lists = dictionary.describe()
    hits = {k for k, sentence in enumerate(sentences) if word in sentence}
    return [row for row, number in enumerate(numbers) if hits & set(lists[number])]


def test_rows_are_found_by_words_of_both_texts():
    texts = [
        "The image is Blurred. It is dark.",
        "It is dark: 0.31 of it.",
        None,
        "Its copy is day 1/x_7.tif.",
    ]
    because = ["37 % of the scores are low: lowers the F1 by 0.12; noise", None, None, "scores are high"]
    dictionary = Explanations()
    numbers = dictionary.encode(make_rows(texts, because)).to_pylist()
    assert find_rows(dictionary, numbers, "blurred") == [0]
    assert find_rows(dictionary, numbers, "dark") == [0, 1]
    assert find_rows(dictionary, numbers, "scores") == [0, 3]
    assert find_rows(dictionary, numbers, "lowers the f1") == [0]
    assert find_rows(dictionary, numbers, "x_7.tif") == find_rows(dictionary, numbers, "0.31") == []
    assert numbers[2] == 0 or not dictionary.describe()[1][numbers[2]]


def test_every_word_of_decided_rows_is_found(archive):
    triage = decide_archive(**archive(120, 3), settings=Triage())
    dictionary = Explanations()
    numbers = dictionary.encode(tables.conform(triage, tables.TRIAGE)).to_pylist()
    for row, text in enumerate(triage["explanation"].fillna("") + "; " + triage["because"].fillna("")):
        sentences, lists = dictionary.describe()
        own = " ".join(sentences[k] for k in lists[numbers[row]])
        words = [word.strip(".:;") for word in re.split(r"[\s;,()]+", text.lower())]
        plain = [word for word in words if word and not re.search(r"[0-9/\\_]|\.\S", word)]
        assert [word for word in plain if word not in own] == []


def test_texts_that_differ_in_numbers_alone_are_one():
    n = 5000
    texts = [f"Predicted F1 is {k / n:.4f} ({k} to {k + 1}); see run_{k}/a.tif" for k in range(n)]
    dictionary = Explanations()
    numbers = dictionary.encode(make_rows(texts, [None] * n)).to_numpy()
    assert len(np.unique(numbers)) == 1
    assert len(dictionary.numbers) == 2


def test_size_is_limited(monkeypatch):
    monkeypatch.setattr(explanations, "MAX_TEXTS", 10)
    texts = ["word " * k for k in range(1, 30)]
    dictionary = Explanations()
    numbers = dictionary.encode(make_rows(texts, pd.Series([None] * 29))).to_pylist()
    assert len(dictionary.numbers) == 10
    assert numbers[:9] == list(range(1, 10))
    assert set(numbers[9:]) == {0}
