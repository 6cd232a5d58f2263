"""Functions of custom checks are loaded by path, and identified by all code of their package."""

import dataclasses
import sys

import pytest

from emqa_dask.pipeline.workspace.check_functions import load_function, resolve_checks
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.settings.custom_checks import CustomCheck


def make_settings(folder, function: str) -> Settings:
    table = {"function": function, "above": 1.0, "folder": str(folder)}
    return replace(Settings(), {"flags": {"custom": {"mine": table}}})


def resolve(folder, function: str) -> CustomCheck:
    (check,) = resolve_checks(make_settings(folder, function), is_forced=True).flags.custom
    return check


def test_a_changed_helper_of_a_package_changes_the_digest(tmp_path):
    package = tmp_path / "checks_of_a_package"
    (package / "inner").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "inner" / "__init__.py").write_text("")
    (package / "helpers.py").write_text("FACTOR = 2.0\n")
    code = "from checks_of_a_package.helpers import FACTOR\n\ndef f(image, header):\n    return FACTOR\n"
    (package / "inner" / "mine.py").write_text(code)
    before = resolve(tmp_path, "checks_of_a_package.inner.mine:f")
    assert load_function(before)(None, None) == 2.0
    (package / "helpers.py").write_text("FACTOR = 30.0\n")
    after = resolve(tmp_path, "checks_of_a_package.inner.mine:f")
    assert after.source != before.source
    assert load_function(after)(None, None) == 30.0


def test_another_version_than_the_drivers_is_refused(tmp_path):
    (tmp_path / "checks_of_a_file.py").write_text("class Checks:\n    def f(image, header):\n        return 1.0\n")
    check = resolve(tmp_path, "checks_of_a_file:Checks.f")
    assert load_function(check)(None, None) == 1.0
    with pytest.raises(ImportError, match="install the same version on all machines"):
        load_function(dataclasses.replace(check, source="00000000"))


def test_a_module_that_fails_at_its_import_is_refused(tmp_path):
    (tmp_path / "checks_that_fail.py").write_text("raise RuntimeError('no licence')\n")
    with pytest.raises(SettingsError, match="RuntimeError: no licence"):
        resolve(tmp_path, "checks_that_fail:f")
    assert "checks_that_fail" not in sys.modules


def test_stored_digests_need_no_module(tmp_path):
    settings = make_settings(tmp_path, "a_module_of_another_machine:f")
    (check,) = settings.flags.custom
    stored = replace(settings, {"flags": {"custom": {"mine": check.to_toml_table() | {"source": "12345678"}}}})
    assert resolve_checks(stored, is_forced=False) == stored
    with pytest.raises(SettingsError, match="cannot be imported"):
        resolve_checks(settings, is_forced=False)
