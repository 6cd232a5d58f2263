"""Every verb of the command line is a function of Python, with the same options and defaults, and does the same."""

import argparse
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest

import emqa_dask
from docs.generate.cli import list_verbs
from emqa_dask import verbs
from emqa_dask.cli.options import add_settings
from emqa_dask.settings import replace
from emqa_dask.verbs import models, studies

FUNCTIONS = {
    "triage": "triage_archive",
    "watch": "watch_archive",
    "ingest": "ingest_archive",
    "detect": "detect_objects",
    "classify": "classify_micrographs",
    "featurise": "featurise_micrographs",
    "predict": "predict_quality",
    "measure": "measure_objects",
    "report": "report_verdicts",
    "status": "print_status",
    "verify": "verify_workspace",
    "retry": "retry_failures",
    "calibrate": "calibrate_workspace",
    "rescore": "rescore_workspace",
    "review plan": "plan_review",
    "review serve": "serve_review",
    "estimate": "estimate_specimen",
    "export": "export_detections",
    "list": "list_files",
    "train detector": "train_detector",
    "train ensemble": "train_ensemble",
    "tune log": "tune_log",
    "tune order": "map_order",
    "tune types": "map_atom_types",
    "import detector": "import_detector",
    "study f1": "study_f1",
    "study conditions": "study_conditions",
    "study robustness": "study_robustness",
    "study uncertainty": "study_uncertainty",
    "bench": "measure_scaling",
    "synthesise": "synthesise_archive",
    "certificates": "write_certificates",
    "doctor": "check_machine",
}
OPTIONS = {
    "train_detector": models.DETECTOR_OPTIONS,
    "train_ensemble": models.ENSEMBLE_OPTIONS,
    "study_uncertainty": studies.UNCERTAINTY_OPTIONS,
    "tune_log": models.TUNE_OPTIONS,
}
# What the functions do without: --failed is not optional, and list_files() returns what --null ends.
NOT_IN_PYTHON = {"help", "failed", "null"}


def list_settings_options() -> set[str]:
    parser = argparse.ArgumentParser()
    add_settings(parser)
    return {action.dest for action in parser._actions}


def list_options(verb: str) -> dict[str, object]:
    """Names of a verb's options with their defaults; those of the settings are the one parameter `settings`."""
    actions = [action for action in list_verbs()[verb]._actions if action.dest not in NOT_IN_PYTHON]
    own = {action.dest: action.default for action in actions if action.dest not in list_settings_options()}
    has_settings = any(action.dest == "settings" for action in actions)
    return own | ({"settings": None} if has_settings else {})


def to_plain(default: object) -> object:
    if isinstance(default, list):
        return tuple(default)
    return () if default is None else default


def test_every_verb_has_a_function():
    names = {verb for verb, parser in list_verbs().items() if "run" in parser._defaults}
    assert set(FUNCTIONS) == names
    assert set(FUNCTIONS.values()) <= set(emqa_dask.__all__)


@pytest.mark.parametrize("verb", sorted(set(FUNCTIONS) - {"triage"}))
def test_functions_have_the_options_of_their_verb(verb):
    name = FUNCTIONS[verb]
    parameters = dict(inspect.signature(getattr(emqa_dask, name)).parameters)
    parameters.pop("options", None)
    values = {key: parameter.default for key, parameter in parameters.items()} | OPTIONS.get(name, {})
    options = list_options(verb)
    if verb in ("calibrate", "study f1"):
        options["detectors"] = []
    if verb == "export":
        options["detector"] = None
        assert values.pop("verdict") == ("trust",)
        options.pop("verdict")
    assert set(values) == set(options)
    for key, value in values.items():
        if value is not inspect.Parameter.empty:
            assert to_plain(value) == to_plain(options[key]), key


@pytest.mark.parametrize("name", sorted({*FUNCTIONS.values(), "estimate_run", "open_run"}))
def test_docstrings_describe_every_parameter(name):
    function = getattr(emqa_dask, name)
    text = inspect.getdoc(function)
    assert all(f"\n{section}\n---" in text for section in ("Returns", "Raises"))
    parameters = text.partition("Parameters\n---")[2].partition("\nReturns\n---")[0]
    described = set(re.findall(r"\w+", " ".join(re.findall(r"^\*{0,2}([\w, ]+?)(?: :.*)?$", parameters, re.M))))
    assert set(inspect.signature(function).parameters) <= described
    assert all(f"{option} (" in parameters for option in OPTIONS.get(name, {}))


def test_package_lists_no_verb_of_its_own():
    assert Path(verbs.__file__).read_text().count("\n") == 1


def test_steps_one_by_one_give_the_tables_of_triage(small_archive, in_process, tmp_path):
    expected = emqa_dask.triage_archive(small_archive, str(tmp_path / "a"), in_process, say=lambda text: None)
    workspace = str(tmp_path / "b")
    emqa_dask.ingest_archive(str(small_archive), workspace, in_process)
    for name in ("detect_objects", "featurise_micrographs", "predict_quality", "measure_objects"):
        getattr(emqa_dask, name)(workspace)
    run = emqa_dask.report_verdicts(workspace)
    columns = ["uri", "frame", "verdict", "n_detections", "predicted_f1"]
    rows = run.read_table("triage", columns).compute()
    rows = rows.reset_index(drop=True)
    pd.testing.assert_frame_equal(rows, expected[columns], check_dtype=False, check_exact=True)
    assert emqa_dask.print_status(workspace) == 0
    assert emqa_dask.verify_workspace(workspace) == 0
    paths = emqa_dask.list_files(workspace, verdict="review")
    assert sorted(paths) == sorted({str(small_archive / uri) for uri in rows.loc[rows["verdict"] == "review", "uri"]})
    assert emqa_dask.export_detections(workspace, "csv", verdict="review", out=str(tmp_path / "x.csv")) == 0
    stricter = emqa_dask.rescore_workspace(workspace, replace(in_process, {"triage": {"trust_f1": 0.99}}))
    assert stricter.settings.triage.trust_f1 == 0.99


def test_estimate_of_a_run_writes_nothing(small_archive, in_process, tmp_path, capsys):
    assert emqa_dask.estimate_run(str(small_archive), str(tmp_path / "ws"), in_process) == 0
    assert "16 micrographs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_wrong_options_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"no option colour; there are start, frozen"):
        emqa_dask.train_detector("a.json", "images", str(tmp_path), colour=1)
    with pytest.raises(ValueError, match="either config"):
        emqa_dask.import_detector("x.pth", str(tmp_path), ["bubble"])
    with pytest.raises(ValueError, match="no verdict good; there are trust"):
        emqa_dask.list_files(str(tmp_path), verdict="good")
    with pytest.raises(ValueError, match="no format 'word'; there are coco"):
        emqa_dask.export_detections(str(tmp_path), "word")
    with pytest.raises(ValueError, match="is not an emqa workspace"):
        emqa_dask.measure_objects(str(tmp_path))


def test_archive_with_known_answers(tmp_path):
    folder = emqa_dask.synthesise_archive(tmp_path / "archive", "demo", n=2, seed=1)
    assert Path(folder).is_dir()
    assert Path(f"{folder}.truth").is_dir()
