"""The files of cluster/ say what the code says: Dask's configuration, settings."""

import dask.config
import distributed  # noqa: F401  (adds its own defaults)
import pytest
import yaml

from emqa_dask.pipeline import PRELOAD
from emqa_dask.run.workers import SPAWN_VARIABLES, WORKER_VARIABLES, make_dask_configuration
from emqa_dask.settings import Settings, load_settings
from tests.cluster_files.files import CLUSTER


def flat(tree: dict, prefix: str = "") -> dict:
    """{"a": {"b": 1}} as {"a.b": 1}."""
    found = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def test_manual_workers_get_the_configuration_of_our_workers():
    tree = yaml.safe_load((CLUSTER / "dask.yaml").read_text())
    nanny = tree["distributed"]["nanny"]
    assert nanny["pre-spawn-environ"] == SPAWN_VARIABLES
    assert nanny["environ"] == WORKER_VARIABLES
    said = flat(tree)
    ours = make_dask_configuration(PRELOAD)
    ours.pop("distributed.nanny.pre-spawn-environ")
    assert {key: said.get(key) for key in ours} == ours


def test_every_key_is_one_that_dask_knows():
    known = flat(dask.config.merge(*dask.config.defaults))
    said = flat(yaml.safe_load((CLUSTER / "dask.yaml").read_text()))
    unknown = [key for key in said if key not in known and not key.startswith("distributed.nanny.")]
    assert unknown == []


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("*.toml")), ids=lambda path: path.name)
def test_settings_load_and_change_something(path):
    assert load_settings(path) != Settings()
