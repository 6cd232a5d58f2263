"""Law of a full disk: it ends a run in one line, whatever the stage; no half part counts, and the next goes on."""

import subprocess

import pytest

from emqa_dask.synthetic.archive import synthesise
from tests.whole_runs import EMQA, assert_same_tables, triage, undisturbed

SHORT = ("--workers", "2", "--set", "store.shard_length=4", "--set", "archive.files_per_task=4")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives") / "archive"
    synthesise(folder, "demo", n=24, seed=5, shape=(256, 256))
    return folder


@pytest.fixture(scope="module")
def expected(archive, tmp_path_factory):
    return undisturbed(archive, tmp_path_factory.mktemp("expected") / "ws", *SHORT[2:])


@pytest.fixture
def small_disk(tmp_path):
    """resize(kib) mounts a file system of that size at the path that it returns, or changes the one that is there."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def resize(kib: int):
        is_there = folder.is_mount()
        options = f"size={kib}k,nr_inodes=0"
        command = (
            ["mount", "-o", f"remount,{options}"] if is_there else ["mount", "-t", "tmpfs", "-o", options, "tmpfs"]
        )
        done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"file systems cannot be mounted here: {done.stderr.strip()}")
        return folder

    yield resize
    subprocess.run(["umount", "-l", str(folder)], capture_output=True)


def used_kib(folder) -> int:
    return int(subprocess.run(["du", "-sk", str(folder)], capture_output=True, text=True).stdout.split()[0])


@pytest.mark.real
@pytest.mark.parametrize("stage", ["survey", "ingest", "detect"])
def test_a_full_disk_ends_the_run_and_the_next_resumes(archive, expected, small_disk, stage):
    disk = small_disk({"survey": 64, "ingest": 2400, "detect": 400_000}[stage])  # the store alone takes 3 MB
    root = disk / "ws"
    if stage == "detect":  # all is stored, and then there is room for some of the tables only
        subprocess.run(
            [*EMQA, "ingest", str(archive), "--workspace", str(root), *SHORT], check=True, capture_output=True
        )
        small_disk(used_kib(disk) + 60)
    said = triage(archive, root, *SHORT, code=1)
    (line,) = [line for line in said.splitlines() if line.startswith("emqa: ")]
    assert "No space left" in line or "no space left" in line
    assert "free some space and run the same command again" in line
    assert "Traceback" not in said
    small_disk(400_000)
    triage(archive, root, *SHORT)
    assert not list(root.rglob("*.partial"))
    assert_same_tables(root, expected)
