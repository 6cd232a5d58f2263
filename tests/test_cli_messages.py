"""What the command line says: one line whatever goes wrong, nothing that steers the terminal, names that make sense."""

import os
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask import checksummed_text
from emqa_dask.cli import main
from emqa_dask.cli.messages import explain
from emqa_dask.cli.options import name_default_workspace
from emqa_dask.store import marker
from emqa_dask.uris import escape_controls
from tests.test_cli import emqa, fails_in_one_line

HERE = ("--scheduler", "in-process", "--detector", "log")
VERBS = (
    ("status",),
    ("status", "--watch"),
    ("report",),
    ("verify",),
    ("retry", "--failed"),
    ("rescore",),
    ("detect",),
    ("classify", "--classifier", "none"),
    ("featurise",),
    ("predict",),
    ("calibrate", "labels.json"),
)
EVIL = "\x1b[31m\r\n\a\u202e\u2066\u200b\x9b\udc80"


def state(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@settings(deadline=None)
@given(st.text())
def test_printable_text_has_nothing_that_a_terminal_obeys(text):
    shown = escape_controls(text)
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    shown.encode()
    if text.isascii() and text.isprintable():
        assert shown == text


def test_printable_text_shows_what_was_hidden():
    assert escape_controls(EVIL) == r"\x1b[31m\r\n\x07\u202e\u2066\u200b\x9b\udc80"
    assert escape_controls("Müller – 金 a\\b") == "Müller – 金 a\\b"


def test_names_of_files_cannot_steer_the_terminal(tmp_path, capsys):
    archive = tmp_path / "a"
    root = tmp_path / "ws"
    archive.mkdir()
    for k, name in enumerate(("\x1b]0;title\a.tif", "a\rb\n.tif", "\u202efit.\u200b.tif")):
        (archive / name).write_bytes(b"II*\0" + bytes([k]) * 40)
    assert main(["triage", str(archive), "--workspace", str(root), *HERE]) == 2
    assert main(["status", str(root)]) == 2
    output = "".join(capsys.readouterr())
    assert "title" in output
    assert not {unicodedata.category(c) for c in output.replace("\n", "")} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    error = fails_in_one_line(capsys, "triage", tmp_path / "no\x1b[31m\u202efile", "--workspace", root)
    assert r"no\x1b[31m\u202efile" in error


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: verb[0])
@pytest.mark.parametrize("place", ["missing", "empty", "file", "folder"])
def test_what_is_no_workspace_is_one_line(verb, place, tmp_path, capsys):
    target = tmp_path / "place"
    if place in ("empty", "folder"):
        target.mkdir()
    if place == "folder":
        (target / "settings.toml").write_text("[detect]\nthreshold = 0.2\n")
    if place == "file":
        target.write_text("x")
    before = state(tmp_path)
    error = fails_in_one_line(capsys, verb[0], target, *verb[1:])
    assert f"{target} is not an emqa workspace: " in error
    assert "give the folder that emqa triage has made" in error
    assert state(tmp_path) == before


@pytest.fixture(scope="module")
def workspace(small_archive, tmp_path_factory):
    root = tmp_path_factory.mktemp("made") / "ws"
    assert main(["triage", str(small_archive), "--workspace", str(root), *HERE]) == 0
    return root


@pytest.mark.parametrize("version", [marker.WORKSPACE_FORMAT - 1, marker.WORKSPACE_FORMAT + 1])
def test_every_verb_refuses_a_workspace_of_another_format(workspace, small_archive, tmp_path, capsys, version):
    root = tmp_path / "ws"
    shutil.copytree(workspace, root)
    source = marker.read_source(str(root))
    (root / "workspace.json").write_bytes(checksummed_text.format_marker(version, source))
    before = state(root)
    commands = [(verb[0], root, *verb[1:]) for verb in VERBS]
    commands += [(verb, small_archive, "--workspace", root) for verb in ("triage", "ingest")]
    commands += [(verb, small_archive, "--workspace", root, "--template", "generic") for verb in ("triage", "ingest")]
    commands += [("triage", small_archive, "--workspace", root, "--moved-from", source)]
    commands += [("tune", kind, root, "--out", tmp_path / "out") for kind in ("log", "order")]
    for command in commands:
        error = fails_in_one_line(capsys, *command, *(HERE if command[0] not in ("status", "verify") else ()))
        assert f"{root} has workspace format {version}" in error
        assert ("update emqa_dask" if version > marker.WORKSPACE_FORMAT else "--workspace NEW`") in error
    assert state(root) == before
    if version < marker.WORKSPACE_FORMAT:  # the remedy
        assert main(["triage", source, "--workspace", str(tmp_path / "NEW"), *HERE]) == 0


@pytest.mark.parametrize("kind", ["log", "order"])
def test_tuning_without_micrographs_is_one_line(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    assert "no micrograph in it" in fails_in_one_line(capsys, "tune", kind, "a", *HERE)
    assert "no micrograph in it" in fails_in_one_line(capsys, "tune", kind, "a.emqa", *HERE)
    assert "no such file or folder" in fails_in_one_line(capsys, "tune", kind, "nowhere", *HERE)
    assert "there is no file in it" in fails_in_one_line(capsys, "tune", kind, "empty", *HERE)
    assert "no micrograph" in fails_in_one_line(capsys, "tune", kind, "a.emqa", "--cohort", "x/*", *HERE)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (".", "session"),
        ("..", "data"),
        ("./", "session"),
        ("/", "archive"),
        ("../session/", "session"),
        ("../session//", "session"),
        ("a.txt", "a.txt"),
        (".hidden", "hidden"),
        ("s3://bucket", "bucket"),
        ("s3://bucket/", "bucket"),
        ("s3://bucket/run 7/", "run 7"),
        ("zip://::s3://bucket/a.zip", "a.zip"),
        ("https://host/a/b?token=1", "b"),
        ("s3://", "s3"),
        ("a\x1b\n\u202eb", "a___b"),
    ],
)
def test_the_default_workspace_has_the_archives_name(source, name, tmp_path, monkeypatch):
    folder = tmp_path / "data" / "session"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert name_default_workspace([source]) == f"./{name}.emqa"


def test_an_archive_in_the_current_folder_names_no_hidden_workspace(small_archive, tmp_path, monkeypatch):
    folder = tmp_path / "session"
    shutil.copytree(small_archive, folder)
    monkeypatch.chdir(folder)
    assert main(["ingest", ".", *HERE]) == 0
    assert main(["ingest", ".", *HERE]) == 0  # the workspace lies in the archive, and is none of its files
    assert sorted(set(os.listdir(folder)) - set(os.listdir(small_archive))) == ["session.emqa"]


def test_a_bucket_without_credentials_is_one_line(tmp_path):
    pytest.importorskip("s3fs")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "FSSPEC_"))}
    env = kept | {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    done = emqa("triage", "s3://bucket/run", "--workspace", tmp_path / "ws", *HERE, env=env)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "AWS_ACCESS_KEY_ID" in done.stderr


def test_an_error_of_a_library_is_one_line(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.zip").write_bytes(b"no zip")
    command = ["triage", f"zip://::{tmp_path}/a.zip", "--workspace", str(tmp_path / "ws")]
    error = fails_in_one_line(capsys, *command)
    assert f"triage zip://::{tmp_path}/a.zip: zipfile failed with BadZipFile: File is not a zip file" in error
    monkeypatch.setenv("EMQA_TRACEBACK", "1")
    with pytest.raises(Exception, match="not a zip"):
        main(command)


@pytest.mark.parametrize(
    "error",
    [TypeError("a\nb"), KeyError("k"), AttributeError("x"), ZeroDivisionError(), RecursionError("deep"), Exception()],
)
def test_an_internal_error_is_one_line_asking_for_a_report(error):
    text = explain(error, "triage a")
    assert text.startswith(f"triage a failed with {type(error).__name__}: ")
    assert "please report it" in text
    assert "\n" not in text


def test_errors_with_a_known_cause_name_the_remedy():
    assert "install it with pip" in explain(ModuleNotFoundError("No module named 'x.y'", name="x.y"), "triage a")
    assert "fewer workers" in explain(MemoryError(), "triage a")
    assert "free some space" in explain(OSError(28, "No space left on device", "/a"), "triage a")
    assert "AWS_ACCESS_KEY_ID" in explain(PermissionError("Forbidden"), "triage s3://a")
    assert len(explain(ValueError("x" * 10**6), "triage a")) < 3000


@pytest.mark.parametrize("text", ["{" * 10**5, "[" * 10**5, "9" * 5000, "{[]: 1}", "1e999", "nan", "-inf", "None", "'"])
def test_odd_values_on_the_command_line_are_one_line(text, small_archive, tmp_path, capsys):
    for key in ("run.wait_s", "detect.num_sigma", "detect.log_scale", "detect.detectors"):
        error = fails_in_one_line(
            capsys, "triage", small_archive, "--workspace", tmp_path / "ws", "--set", f"{key}={text}"
        )
        assert key in error
        assert len(error) < 500


def test_a_terminal_without_utf8_shows_what_it_can(workspace):
    done = emqa("status", workspace, env=os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert done.returncode == 0, done.stderr


def test_warnings_of_libraries_stay_off_the_terminal():
    script = (
        "import logging, subprocess, sys, warnings\nfrom emqa_dask.cli.messages import quiet_libraries\n"
        "quiet_libraries()\nwarnings.warn('one')\nlogging.getLogger('a.library').error('two')\n"
        "subprocess.run([sys.executable, '-c', 'import warnings; warnings.warn(chr(51))'])\n"
    )
    for env, shown in (({}, ""), ({"EMQA_TRACEBACK": "1"}, "one two 3"), ({"PYTHONWARNINGS": "default"}, "one two 3")):
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONWARNINGS", "EMQA_TRACEBACK")}
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=kept | env, check=True
        )
        assert all(word in done.stderr for word in shown.split())
        assert bool(done.stderr) == bool(shown)
