"""Custom checks: a user's function runs on the workers, and its numbers are in tables, reasons and on the page."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from emqa_dask.pipeline.commands.dry_run import estimate_run
from emqa_dask.pipeline.commands.rescore import rescore
from emqa_dask.pipeline.commands.retry import retry
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.stages import SCHEMAS, list_run_folders
from emqa_dask.settings import Settings, SettingsError, load_settings, replace
from emqa_dask.store import parts, stored_settings

CODE = """
import math, os

def measure_brightness(image, header):
    assert image.ndim == 2 and header.nm_per_pixel_source == "header"
    image[:] = image  # a copy, so that nothing else sees it
    return image.mean()

def read_voltage(image, header):
    return header.voltage_kv

def refuse_bright(image, header):
    if image.mean() > 5000:
        raise ValueError("too bright for me")
    return 1

def die_on_bright(image, header):
    if image.mean() > 5000:
        os.kill(os.getpid(), 9)
    return 0.0

def give_text(image, header):
    return "sharp"

def take_nothing():
    return 1.0
"""
CHECKS = """
[flags.custom.brightness]
function = "{module}:measure_brightness"
above = 4000
text = "mean brightness {{value:.0f}} (limit {{limit:.0f}})"

[flags.custom.voltage]
function = "{module}:read_voltage"
below = 1
verdict = "junk"
"""
LEVELS = {"dark.tif": 1000, "middle.tif": 3000, "bright.tif": 9000}


def make_archive(folder: Path) -> Path:
    """Three images of noise about a level of their own, 0.5 nm/px."""
    folder.mkdir()
    rng = np.random.default_rng(5)
    for name, level in LEVELS.items():
        image = rng.normal(level, 100, (128, 128)).astype(np.uint16)
        tifffile.imwrite(folder / name, image, imagej=True, resolution=(2.0, 2.0), metadata={"unit": "nm"})
    return folder


@pytest.fixture
def place(tmp_path, request):
    """Folder with the archive, a module of checks with a name of its own, and the settings file."""
    make_archive(tmp_path / "archive")
    module = f"checks_{abs(hash(request.node.name)) % 10**8}_{os.getpid()}"
    (tmp_path / f"{module}.py").write_text(CODE)
    (tmp_path / "settings.toml").write_text(CHECKS.format(module=module))
    return tmp_path


def write_checks(place: Path, **functions: str) -> Path:
    """The settings file with a check, above 0.5, for each of `functions` of the module of `place`."""
    module = next(place.glob("checks_*.py")).stem
    tables = [f'[flags.custom.{name}]\nfunction = "{module}:{of}"\nabove = 0.5\n' for name, of in functions.items()]
    (place / "settings.toml").write_text("\n".join(tables))
    return place / "settings.toml"


def triage(place: Path, scheduler: str = "in-process", say=lambda text: None) -> tuple[int, pd.DataFrame, Settings]:
    """(exit code, triage table by URI, stored settings) of a run with the settings file."""
    settings = replace(load_settings(place / "settings.toml"), {"run": {"scheduler": scheduler, "workers": 2}})
    code = run(str(place / "archive"), str(place / "ws"), settings, say=say)
    rows = pd.read_parquet(place / "ws" / "triage.parquet").set_index("uri")
    return code, rows, stored_settings.read_settings(str(place / "ws"))


def read_values(place: Path, settings: Settings) -> pd.DataFrame:
    return parts.read_table(str(place / "ws"), list_run_folders(settings)["custom_checks"], SCHEMAS["custom_checks"])


@pytest.mark.parametrize("scheduler", ["in-process", "local"])
def test_numbers_of_a_function_are_in_tables_and_reasons(place, scheduler):
    code, rows, settings = triage(place, scheduler)
    assert code == 0
    values = read_values(place, settings).pivot(index="micrograph_id", columns="name", values="value")
    by_uri = values.loc[rows["micrograph_id"]].set_axis(rows.index)
    for name, level in LEVELS.items():
        assert by_uri.loc[name, "brightness"] == pytest.approx(level, rel=0.05)
    assert by_uri["voltage"].isna().all()  # unknown, so no limit is passed
    assert "custom_brightness" in rows.loc["bright.tif", "reasons"]
    assert rows.loc["bright.tif", "verdict"] in ("review", "junk")
    assert "Mean brightness 9" in rows.loc["bright.tif", "explanation"]
    assert "custom_brightness" not in [code for codes in rows["reasons"].drop("bright.tif") for code in codes]
    flags = pd.read_parquet(place / "ws" / "flags.parquet")
    (flag,) = flags[flags["flag"].eq("custom_brightness")].itertuples()
    assert (flag.micrograph_id, flag.limit) == (rows.loc["bright.tif", "micrograph_id"], 4000)
    page = (place / "ws" / "report" / "index.html").read_text()
    assert "custom brightness" in page
    pictures = "".join(path.read_text() for path in (place / "ws" / "report" / "thumbnails").iterdir())
    assert '"Check brightness"' in pictures
    assert "(fault above 4,000)" in pictures


def test_changed_code_runs_again_and_a_changed_limit_does_not(place):
    _, rows, settings = triage(place)
    module = next(place.glob("checks_*.py"))
    first_folder = list_run_folders(settings)["custom_checks"]
    features = list_run_folders(settings)["features"]
    looser = replace(settings, {"flags": {"custom.brightness.above": 20_000}})
    assert rescore(str(place / "ws"), looser, say=lambda text: None) == 0
    again = pd.read_parquet(place / "ws" / "triage.parquet").set_index("uri")
    assert "custom_brightness" not in again.loc["bright.tif", "reasons"]
    module.write_text(CODE.replace("return image.mean()", "return 2 * image.mean()"))
    _, rows, settings = triage(place)
    assert list_run_folders(settings)["custom_checks"] != first_folder
    assert list_run_folders(settings)["features"] == features
    values = read_values(place, settings).query("name == 'brightness'").set_index("micrograph_id")["value"]
    assert values[rows.loc["middle.tif", "micrograph_id"]] == pytest.approx(6000, rel=0.05)
    assert "custom_brightness" in rows.loc["middle.tif", "reasons"]


@pytest.mark.parametrize(("function", "error"), [("refuse_bright", "ValueError: too bright for me"), ("give_text", "")])
def test_an_error_of_a_function_fails_the_image(place, function, error):
    write_checks(place, fussy=function, brightness="measure_brightness")
    code, rows, settings = triage(place)
    assert code == 2
    assert "check_failed" in rows.loc["bright.tif", "reasons"]
    assert (
        f"custom check fussy ({next(place.glob('checks_*.py')).stem}:{function})"
        in rows.loc["bright.tif", "explanation"]
    )
    assert error in rows.loc["bright.tif", "explanation"]
    assert rows["status"].eq("ok").all()
    failures = pd.read_parquet(place / "ws" / "failures.parquet")
    assert set(failures["stage"]) == {"check"}
    assert len(failures) == (1 if error else 3)
    assert "Traceback" in failures["traceback"][0]
    values = read_values(place, settings)
    assert values["name"].value_counts()["brightness"] == 3  # the other check went on
    module = next(place.glob("checks_*.py"))
    module.write_text(CODE.replace('raise ValueError("too bright for me")', "return 0.0").replace('"sharp"', "0.0"))
    settings = replace(load_settings(place / "settings.toml"), {"run": {"scheduler": "in-process"}})
    assert retry(str(place / "ws"), settings, "check", say=lambda text: None) == 0


def test_a_function_that_kills_its_process_costs_one_image(place):
    write_checks(place, deadly="die_on_bright")
    code, rows, settings = triage(place, "local")
    assert code == 2
    assert "check_failed" in rows.loc["bright.tif", "reasons"]
    assert "custom check deadly" in rows.loc["bright.tif", "explanation"]
    assert not set(rows["reasons"].drop("bright.tif").explode()) & {"check_failed", "quarantined", "not_judged"}
    assert len(read_values(place, settings)) == 2


@pytest.mark.parametrize(
    ("function", "remedy"),
    [
        ("no_such_module_here:f", "install its package where emqa and its workers run, or put the module into"),
        ("{module}:no_such_function", "correct the name of the function"),
        ("{module}:CODE", "cannot be imported"),
        ("{module}:take_nothing", "has to take (image, header)"),
        ("math:pi", "not a function"),
    ],
)
def test_a_missing_function_is_refused_before_the_run(place, function, remedy):
    module = next(place.glob("checks_*.py")).stem
    text = f'[flags.custom.missing]\nfunction = "{function.format(module=module)}"\nabove = 1\n'
    (place / "settings.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"flags\.custom\.missing\.function") as error:
        triage(place)
    assert remedy in str(error.value)
    assert not (place / "ws").exists()


def test_a_module_that_an_installed_one_hides_is_refused(place):
    (place / "pandas.py").write_text("def f(image, header):\n    return 1.0\n")
    (place / "settings.toml").write_text('[flags.custom.hidden]\nfunction = "pandas:f"\nabove = 1\n')
    with pytest.raises(SettingsError, match="rename your module"):
        triage(place)


def test_the_command_runs_checks_and_changes_limits(place):
    """In processes of their own, from another folder, with workers."""
    command = [sys.executable, "-m", "emqa_dask"]
    archive, workspace = str(place / "archive"), str(place / "ws")
    options = {"cwd": Path(__file__).parents[2], "capture_output": True, "text": True, "timeout": 300}
    settings = ["--settings", str(place / "settings.toml"), "--workers", "1"]
    ran = subprocess.run([*command, "triage", archive, "--workspace", workspace, *settings], **options)
    assert ran.returncode == 0, ran.stderr
    changed = ["--set", "flags.custom.brightness.below=2000"]
    ran = subprocess.run([*command, "report", workspace, *changed], **options)
    assert ran.returncode == 0, ran.stderr
    rows = pd.read_parquet(place / "ws" / "triage.parquet").set_index("uri")
    assert "custom_brightness" in rows.loc["dark.tif", "reasons"]
    assert "custom_brightness" not in rows.loc["bright.tif", "reasons"]
    assert json.loads((place / "ws" / "provenance.json").read_text())["folders"]["custom_checks"]


def test_the_function_gets_the_header_of_the_image():
    from emqa_dask.pipeline.tasks.custom_checks import HEADER_FIELDS, make_header

    row = dict.fromkeys(HEADER_FIELDS, math.nan)
    row |= {"instrument": "TEM 1", "nm_per_pixel": 0.5, "header": '{"Spot": 3}', "pixel_size_problem": None}
    header = make_header(row)
    assert (header.instrument, header.nm_per_pixel, header.foreign) == ("TEM 1", 0.5, {"Spot": 3})
    assert header.acquired is None
    assert math.isnan(header.voltage_kv)


def test_a_dry_run_takes_the_time_of_checks(place):
    (place / "settings.toml").write_text(write_noting_check(place))
    lines = []
    assert estimate_run(str(place / "archive"), load_settings(place / "settings.toml"), say=lines.append) == 0
    assert (place / "calls.txt").read_text() == "xxx"  # once for each image
    assert any("3 files" in line for line in lines)


def write_noting_check(place: Path) -> str:
    """Settings of a check that notes its calls in a file."""
    path = str(place / "calls.txt")
    code = f"def note_call(image, header):\n    with open({path!r}, 'a') as file:\n        return file.write('x')\n"
    module = f"{next(place.glob('checks_*.py')).stem}_noting"
    (place / f"{module}.py").write_text(code)
    return f'[flags.custom.noted]\nfunction = "{module}:note_call"\nabove = 2\n'
