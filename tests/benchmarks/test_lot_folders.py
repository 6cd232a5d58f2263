"""Folders of synthetic lots: every lot has labelled fields, and a changed acquisition changes nothing else."""

import numpy as np
import pandas as pd
import pytest
import tifffile

from benchmarks.studies import lot_folders


def test_folders_have_the_fields_of_every_lot(tmp_path):
    lot_folders.main(["--out", str(tmp_path), "--lots", "3", "--fields", "2"])
    labels = pd.read_csv(tmp_path / "labels.csv")
    assert labels["label"].value_counts().to_dict() == {"lot 00": 2, "lot 01": 2, "lot 02": 2}
    fields = [tifffile.imread(tmp_path / uri) for uri in labels["uri"]]
    assert {(field.shape, field.dtype) for field in fields} == {((128, 128), np.dtype(np.uint16))}
    assert len({field.tobytes() for field in fields}) == len(fields)
    assert {path.name for path in (tmp_path / "new_class").iterdir()} == {"lot 03", "lot 04"}
    assert {path.name for path in (tmp_path / "acquisition").iterdir()} == set(lot_folders.CHANGED)


@pytest.mark.parametrize("name", lot_folders.CHANGED)
def test_what_is_changed_is_the_acquisition_alone(name):
    acquisition = lot_folders.CHANGED[name]
    assert sum(value != usual for value, usual in zip(acquisition, lot_folders.OWN, strict=True)) == 1
    usual, changed = (lot_folders.draw_field([0, 0], 5, each) for each in (lot_folders.OWN, acquisition))
    assert not np.array_equal(usual, changed)
    assert np.corrcoef(usual.ravel(), changed.ravel())[0, 1] > 0.6  # the same field of view
