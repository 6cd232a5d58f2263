"""The leaf modules that every room leans on: tables, partitions, models, digests of settings."""

import dataclasses

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from emqa_dask import models, tables
from emqa_dask.settings import Detect, Settings, SettingsError, digest, parse, replace

SCHEMAS = {name: value for name, value in vars(tables).items() if isinstance(value, pa.Schema)}


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_empty_table_has_all_columns_and_conforms(name):
    schema = SCHEMAS[name]
    table = tables.conform(tables.empty(schema), schema)
    assert table.schema.equals(schema)
    assert tables.conform([], schema).schema.equals(schema)
    assert all(field.metadata[b"meaning"] for field in schema)


def test_conform_fills_orders_and_refuses():
    table = tables.conform([{"uri": "a", "status": "ok"}], tables.CATALOG).to_pandas()
    assert list(table.columns) == tables.CATALOG.names
    assert table["n_frames"].isna().all()
    with pytest.raises(ValueError, match="colour"):
        tables.conform([{"uri": "a", "colour": 1}], tables.CATALOG)
    with pytest.raises((pa.ArrowInvalid, pa.ArrowTypeError, ValueError)):
        tables.conform([{"uri": "a", "n_frames": "many"}], tables.CATALOG)


def test_unknown_numbers_stay_nan():
    rows = pd.DataFrame({"micrograph_id": ["a", "b"], "predicted_f1": [0.0, np.nan]})
    table = tables.conform(rows, tables.PREDICTIONS)
    assert table["predicted_f1"].null_count == 0
    assert np.isnan(table["predicted_f1"].to_numpy()[1])
    assert table["predicted_f1"].to_numpy()[0] == 0


def test_a_digest_changes_with_every_setting_and_only_then():
    assert digest(Detect()) == digest(Detect())
    assert len(digest(Detect())) == 8
    for field in dataclasses.fields(Detect):
        value = getattr(Detect(), field.name)
        other = (
            f"{value}x"
            if isinstance(value, str)
            else not value
            if isinstance(value, bool)
            else (*value, "x")
            if isinstance(value, tuple)
            else value + 1
        )
        assert digest(dataclasses.replace(Detect(), **{field.name: other})) != digest(Detect())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"detect": {"min_sigma": -1.0}}, "min_sigma is -1"),
        ({"detect": {"num_sigma": True}}, "type int"),
        ({"detect": {"min_sigma": "2"}}, "type float"),
        ({"detects": {}}, "did you mean 'detect'"),
        ({"archive": {"exclude": "x"}}, "list of strings"),
        ({"run": {"scheduler": "moon"}}, "local"),
        ({"detect": 3}, "table of settings"),
    ],
)
def test_bad_settings_are_named(changes, said):
    with pytest.raises(SettingsError, match=said):
        replace(Settings(), changes)


def test_broken_toml_names_its_source():
    with pytest.raises(SettingsError, match=r"s\.toml"):
        parse("[detect\n", "s.toml")


def test_a_model_that_does_not_exist_names_those_that_do():
    with pytest.raises(FileNotFoundError, match="log-synthetic"):
        models.locate_model("log-sinthetic")
