"""The published table in both layouts: what is read, what is refused and how its rows are named."""

import re

import numpy as np
import pandas as pd
import pytest

from emqa_dask.predict import published_table
from emqa_dask.tables import DETECTION_FEATURES, SCORE_BINS
from tests.published_tables import other_layout, raw_table, write


def test_both_layouts_read_the_same(tmp_path):
    raw = raw_table()
    one = published_table.read_published(write(raw, tmp_path / "a.csv"))
    two = published_table.read_published(write(other_layout(raw), tmp_path / "b.csv"))
    pd.testing.assert_frame_equal(one[two.columns], two)
    assert set(one) - set(two) == {"mean_circularity", "std_circularity", "swelling_error"}
    assert set(DETECTION_FEATURES) <= set(one)
    assert sorted(set(one["split"])) == ["A&B_C", "A: over_over", "A: over_under", "A_A", "A_B"]
    np.testing.assert_allclose(one[list(SCORE_BINS)].sum(axis=1), 1)
    assert (one.loc[raw["f1"].isna(), "true_f1"] == 0).all()


def test_other_spellings_of_columns_are_read(tmp_path):
    raw = raw_table()
    renamed = raw.rename(columns={"names": "Name", "avg obj conf": "Avg_Obj_Conf", "counts": "COUNTS", "f1": "F1"})
    pd.testing.assert_frame_equal(
        published_table.read_published(write(renamed, tmp_path / "b.csv")),
        published_table.read_published(write(raw, tmp_path / "a.csv")),
    )


@pytest.mark.parametrize("layout", [lambda raw: raw, other_layout])
def test_exactly_the_rotated_rows_are_named(tmp_path, layout):
    raw = layout(raw_table())
    rows = (raw["label"] == "A_A").to_numpy()
    raw.loc[rows, ["precision", "recall", "area_ratio"]] = raw.loc[
        rows, ["area_ratio", "precision", "recall"]
    ].to_numpy()
    with pytest.raises(ValueError, match="turned back") as caught:
        published_table.read_published(write(raw, tmp_path / "a.csv"))
    named = re.findall(r"row (\d+) \(line (\d+), image '([^']*)', split ([^)]*)\)", str(caught.value))
    assert sorted({int(row) for row, *_ in named}) == np.flatnonzero(rows).tolist()
    assert all(int(line) == int(row) + 2 for row, line, *_ in named)
    assert {(name, split) for _, _, name, split in named} == {(name, "A_A") for name in raw.loc[rows, "names"]}
    assert f"{rows.sum()} of these rows" in str(caught.value)


def test_missing_columns_values_and_rows_are_named(tmp_path):
    raw = raw_table()
    with pytest.raises(ValueError, match=r"lacks mean_score \(avgobjconf\), num_0\.4"):
        published_table.read_published(write(raw.drop(columns=["avg obj conf", "num_0.4"]), tmp_path / "a.csv"))
    gap = raw.assign(**{"stdev obj conf": raw["stdev obj conf"].where(raw.index != 7)})
    with pytest.raises(ValueError, match=r"std_score: row 7 \(line 9, image 'image 7.png', split A: over_under\)$"):
        published_table.read_published(write(gap, tmp_path / "a.csv"))
    with pytest.raises(ValueError, match="no rows"):
        published_table.read_published(write(raw.iloc[:0], tmp_path / "a.csv"))


def test_repeated_rows_are_named(tmp_path):
    raw = raw_table()
    table = published_table.read_published(write(pd.concat([raw, raw.iloc[[5]]]), tmp_path / "a.csv"))
    said = published_table.list_repeated_rows(table)
    assert any(re.search(r"row 90 \(image 'image 5.png'.*repeats", text) for text in said)
    assert not any("repeats" in text for text in published_table.list_repeated_rows(table.iloc[:90]))


def test_grouped_splits_are_the_papers_five():
    grouped = ["A&B_C", "A: over_under", "A: under_over", "B_A", "A_B"]
    random = ["A&B_A&B", "A_A", "B_B", "A: under_under", "A: over_over"]
    assert list(map(published_table.is_grouped, grouped + random)) == [True] * 5 + [False] * 5


@pytest.mark.parametrize("layout", [lambda raw: raw, other_layout])
def test_a_table_in_the_published_layout_reads_back(tmp_path, layout):
    table = published_table.read_published(write(layout(raw_table()), tmp_path / "a.csv"))
    again = published_table.read_published(write(published_table.format_published(table), tmp_path / "b.csv"))
    pd.testing.assert_frame_equal(again[table.columns], table)


def test_splits_of_too_few_rows_state_the_number():
    table = pd.DataFrame({"split": ["A_B"] * 20 + ["A_C"] * 4, "true_f1": np.linspace(0, 1, 24)})
    with pytest.raises(ValueError, match="split: A_C has 4, 5 are needed"):
        published_table.check_splits(table)
    with pytest.raises(ValueError, match="12 labelled images with detections: the study needs 20"):
        published_table.check_splits(table[:12])
    with pytest.raises(ValueError, match=r"true F1 is 0\.5 in all 20 rows"):
        published_table.check_splits(table[:20].assign(true_f1=0.5))
    published_table.check_splits(table[:20])


def test_images_of_one_class_get_a_note():
    assert "no image has an F1 of 0.5" in published_table.name_single_class(np.array([0.1, 0.4]))[0]
    assert "all 2 images" in published_table.name_single_class(np.array([0.5, 0.9]))[0]
    assert published_table.name_single_class(np.array([0.4, 0.9])) == []
