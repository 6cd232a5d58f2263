"""The command line: light to start, exit codes, one-line errors with a remedy."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from emqa_dask.cli import main
from emqa_dask.cli.arguments import build_parser
from emqa_dask.cli.run_verbs import STEP_HELP
from emqa_dask.pipeline.workspace.stages import STEPS
from emqa_dask.settings import Settings, dump, load_settings, template_names
from emqa_dask.store import marker

REPOSITORY = Path(__file__).parents[1]


def emqa(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "emqa_dask", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def fails_in_one_line(capsys, *arguments) -> str:
    """The message of a command that has to end with 1, one line on stderr and no traceback."""
    assert main([str(a) for a in arguments]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert not any("Traceback" in line for line in lines)
    assert lines[-1].startswith("emqa: ")
    # Before it there may be lines of progress.
    assert not any(line.startswith("emqa: ") for line in lines[:-1])
    return lines[-1]


@pytest.mark.parametrize("code", ["import emqa_dask", "import emqa_dask.cli", "from emqa_dask.settings import *"])
def test_imports_stay_light(code):
    heavy = "{'torch', 'dask', 'distributed', 'zarr', 'numpy', 'pandas', 'scipy', 'cv2', 'sklearn', 'rsciio', 'cupy'}"
    script = f"import sys; {code}; print(sorted({heavy} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


SIMULATED_SYSTEMS = {
    "Windows": "sys.platform = 'win32'",
    "no resource": "sys.modules['resource'] = None",
    "no fcntl": "sys.modules['fcntl'] = None",
}


@pytest.mark.parametrize("system", SIMULATED_SYSTEMS)
def test_unsupported_systems_are_refused_in_one_sentence(system):
    start = f"import sys; {SIMULATED_SYSTEMS[system]}; "
    commands = {
        "import": f"{start}import emqa_dask",
        "emqa": f"{start}sys.argv = ['C:/Python/Scripts/emqa.exe', 'triage']; from emqa_dask.cli import script",
        "module": f"{start}import runpy; sys.argv = ['-m']; runpy.run_module('emqa_dask', run_name='__main__')",
    }
    for name, code in commands.items():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 1, name
        last_line = done.stderr.strip().splitlines()[-1]
        assert re.fullmatch(r"(ImportError|emqa): emqa_dask runs on Linux.* not on Windows.*WSL.*Docker.*", last_line)
        assert ("Traceback" in done.stderr) == (name == "import")


def test_public_names_load_on_use():
    import emqa_dask

    for name in emqa_dask.__all__:
        assert getattr(emqa_dask, name) is not None
    with pytest.raises(AttributeError):
        emqa_dask.no_such_name  # noqa: B018


def test_help_teaches_every_verb():
    text = emqa("--help").stdout
    verbs = build_parser()._subparsers._group_actions[0].choices
    assert {"triage", *STEP_HELP, "status", "synthesise", "doctor"} <= set(verbs)
    for verb in verbs:
        assert re.search(rf"^ +{verb}\b", text, re.M), verb
        assert emqa(verb, "--help").returncode == 0


def test_readme_documents_every_verb():
    readme = (REPOSITORY / "README.md").read_text()
    for verb in build_parser()._subparsers._group_actions[0].choices:
        assert f"`{verb}`" in readme, verb


def test_a_wrong_command_line_ends_with_1():
    assert emqa("triage").returncode == 1
    assert emqa("no-such-verb").returncode == 1


def test_missing_and_empty_sources(capsys, tmp_path):
    root = tmp_path / "ws"
    assert "no such file or folder" in fails_in_one_line(capsys, "triage", tmp_path / "none", "--workspace", root)
    (tmp_path / "empty").mkdir()
    assert "no file" in fails_in_one_line(capsys, "triage", tmp_path / "empty", "--workspace", root)
    assert not root.exists()


def test_unknown_settings_name_the_near_one(capsys, small_archive, tmp_path):
    common = ("triage", small_archive, "--workspace", tmp_path / "ws")
    assert "did you mean 'threshold'" in fails_in_one_line(capsys, *common, "--set", "detect.treshold=1")
    assert "did you mean 'cavity-tem'" in fails_in_one_line(capsys, *common, "--template", "cavity-te")
    (tmp_path / "s.toml").write_text("[detect]\npolarity = 'up'\n")
    assert "s.toml" in fails_in_one_line(capsys, *common, "--settings", tmp_path / "s.toml")
    assert not (tmp_path / "ws").exists()


def test_a_folder_that_is_not_ours_is_refused(capsys, small_archive, tmp_path):
    (tmp_path / "precious.txt").write_text("keep")
    assert "not an emqa workspace" in fails_in_one_line(capsys, "triage", small_archive, "--workspace", tmp_path)
    assert "not an emqa workspace" in fails_in_one_line(capsys, "status", tmp_path)
    assert "not an emqa workspace" in fails_in_one_line(capsys, "detect", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["precious.txt"]


def test_a_workspace_of_another_archive_is_refused(capsys, small_archive, tmp_path):
    root = tmp_path / "ws"
    marker.claim_workspace(str(root), "/another")
    assert "belongs to" in fails_in_one_line(capsys, "triage", small_archive, "--workspace", root)


def test_default_workspace_is_named_after_the_source(monkeypatch, capsys, small_archive, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["ingest", str(small_archive), "--scheduler", "in-process"]) == 0
    assert f"workspace: ./{small_archive.name}.emqa" in capsys.readouterr().out
    assert (tmp_path / f"{small_archive.name}.emqa" / "catalog.parquet").exists()


def test_steps_take_the_settings_of_the_workspace(capsys, small_archive, tmp_path):
    root = tmp_path / "ws"
    assert main(["ingest", str(small_archive), "--workspace", str(root), "--scheduler", "in-process"]) == 0
    assert main(["detect", str(root), "--set", "detect.threshold=0.4"]) == 0
    assert load_settings(root / "settings.toml").detect.threshold == 0.4
    assert main(["status", str(root)]) == 0
    assert "detections" in capsys.readouterr().out


def test_dry_run_writes_nothing(capsys, small_archive, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["triage", str(small_archive), "--dry-run"]) == 0
    assert "megapixels" in capsys.readouterr().out
    assert not any(tmp_path.iterdir())


def test_settings_survive_writing_and_reading(tmp_path):
    for template in template_names():
        settings = load_settings(template=template)
        (tmp_path / "s.toml").write_text(dump(settings))
        assert load_settings(tmp_path / "s.toml") == settings
    assert load_settings() == Settings()


def test_doctor_finds_this_machine_fit(capsys):
    assert main(["doctor"]) == 0
    assert "can run emqa_dask" in capsys.readouterr().out


@pytest.fixture
def tiny_disk(tmp_path):
    """A folder on a file system of 600 kB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("scheduler", ["in-process", pytest.param("local", marks=pytest.mark.real)])
def test_a_full_disk_is_one_line_with_the_remedy(capsys, small_archive, tiny_disk, scheduler):
    error = fails_in_one_line(
        capsys, "triage", small_archive, "--workspace", tiny_disk / "ws", "--scheduler", scheduler, "--workers", 1
    )
    assert "free some space" in error
    assert not list(tiny_disk.rglob("*.partial"))


@pytest.mark.real
def test_bad_files_end_with_2_and_a_row_each(tmp_path):
    from tests.archive.bad_files import make_bad_archive

    expected = make_bad_archive(tmp_path / "archive")
    root = tmp_path / "ws"
    done = emqa("triage", tmp_path / "archive", "--workspace", root, "--workers", "2")
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    rows = pd.read_parquet(root / "triage.parquet")
    catalog = pd.read_parquet(root / "catalog.parquet").set_index("uri")
    assert set(expected) == set(catalog.index) == set(rows["uri"])
    assert catalog["status"].to_dict() == expected
    lost = catalog[catalog["status"] != "ok"]
    assert lost["reason"].str.len().min() > 10
    assert (rows[rows["uri"].isin(lost.index)]["verdict"] == "unknown").all()
    assert not rows.loc[rows["verdict"] != "trust", "explanation"].str.strip().eq("").any()
    failures = pd.read_parquet(root / "failures.parquet")
    assert set(failures["uri"]) == set(catalog.index[catalog["status"] == "failed"])
    page = (root / "report" / "index.html").read_text()
    assert "<script>alert" not in page
    again = emqa("triage", tmp_path / "archive", "--workspace", root)
    assert again.returncode == 2
    assert "nothing was new" in again.stdout


@pytest.mark.real
def test_ctrl_c_ends_with_130_and_the_next_run_resumes(small_archive, tmp_path, in_process):
    root = tmp_path / "ws"
    command = [sys.executable, "-u", "-m", "emqa_dask", "triage", str(small_archive), "--workspace", str(root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        assert "workers" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "run the same command again" in error
    assert "Traceback" not in error
    assert not list(root.rglob("*.partial"))
    assert main(["triage", str(small_archive), "--workspace", str(root), "--scheduler", "in-process"]) == 0


def test_a_signal_after_the_end_keeps_the_exit_code(tmp_path):
    # Exit functions are called when main() has ended; Python calls the latest one first.
    code = (
        "import atexit, sys, time\nfrom emqa_dask import cli\nmain = cli.main\n"
        "def wait_at_end():\n    code = main()\n    atexit.register(time.sleep, 2)\n    return code\n"
        "cli.main = wait_at_end\nsys.exit(cli.script())"
    )
    command = [sys.executable, "-c", code, "certificates", str(tmp_path / "tls")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1) as process:
        # Its output comes with its last moments, so wait for what it wrote before.
        deadline = time.monotonic() + 60
        while not (tmp_path / "tls" / "key.pem").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0, process.stderr.read()
        assert "certificates in" in process.stdout.read()


def test_a_process_ends_after_its_exit_functions_without_freeing_objects():
    code = (
        "import atexit, sys\nfrom emqa_dask import cli\n"
        "class Late:\n    def __del__(self, write=sys.stdout.write): write('freed')\n"
        "late = Late()\n"
        "def main():\n    atexit.register(print, 'exit function')\n    print('result')\n    return 2\n"
        "cli.main = main\nsys.exit(cli.script())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (2, "result\nexit function\n"), done.stderr


def test_every_step_of_a_run_is_a_verb():
    assert tuple(STEP_HELP) == STEPS
