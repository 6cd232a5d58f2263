"""emqa_dask.output_folders: a folder is written whole or not at all, and replaces only one that emqa_dask wrote."""

import os
import signal
import subprocess
import sys

import pytest

from emqa_dask import models, output_folders


def write(target, text="weights", meanwhile=lambda: None, **card):
    with output_folders.write_folder(target) as fresh:
        (fresh / "weights.bin").write_text(text)
        models.write_model_card(fresh, {"name": "a", **card})
        meanwhile()


def tree(folder):
    """Every path below `folder`: its link, its bytes or that it is a folder."""
    paths = sorted(folder.rglob("*"))
    return {
        str(p.relative_to(folder)): os.readlink(p) if p.is_symlink() else p.read_bytes() if p.is_file() else "folder"
        for p in paths
    }


def test_a_folder_of_ours_is_replaced_as_a_whole(tmp_path):
    write(tmp_path / "m", "first")
    with pytest.raises(ValueError, match="not JSON compliant"):
        write(tmp_path / "m", "half", measured=float("nan"))
    assert (tmp_path / "m" / "weights.bin").read_text() == "first"
    write(tmp_path / "m", "second")
    assert (tmp_path / "m" / "weights.bin").read_text() == "second"
    assert os.listdir(tmp_path) == ["m"]


def put_a_link_in_the_place_of_its_file(folder):
    (folder / "weights.bin").rename(folder.parent / "w")
    (folder / "weights.bin").symlink_to(folder.parent / "w")


CHANGES = {
    "a file more": lambda m: (m / "notes.txt").write_text("mine"),
    "a hidden file more": lambda m: (m / ".notes").write_text("mine"),
    "a folder more": lambda m: (m / "scans").mkdir(),
    "another file": lambda m: (m / "weights.bin").write_text("mine"),
    "a file less": lambda m: (m / "weights.bin").unlink(),
    "a link": lambda m: (m / "link").symlink_to(m / "weights.bin"),
    "a link in a file's place": put_a_link_in_the_place_of_its_file,
    "somebody's card": lambda m: (m / "card.toml").write_text('name = "mine"\n'),
    "a card that is no TOML": lambda m: (m / "card.toml").write_text("mine"),
    "a card of nothing": lambda m: (m / "card.toml").write_text("[files]\n"),
    "a card of a path": lambda m: (m / "card.toml").write_text('[files]\n"../w" = "0"\n'),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_folder_that_somebody_changed_stays_as_it_is(change, tmp_path):
    write(tmp_path / "m")
    CHANGES[change](tmp_path / "m")
    before = tree(tmp_path)
    for attempt in (output_folders.check_folder, write):
        with pytest.raises(FileExistsError, match=r"/m is there .*give another name, or move it away"):
            attempt(tmp_path / "m")
    output_folders.remove_folder(tmp_path / "m")
    output_folders.restore_interrupted(tmp_path / "m")
    assert tree(tmp_path) == before


def test_files_links_and_empty_folders_are_not_replaced(tmp_path):
    write(tmp_path / "m")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "broken").symlink_to("nothing")
    before = tree(tmp_path)
    for name in ("file", "empty", "link", "broken"):
        with pytest.raises(FileExistsError, match=name):
            write(tmp_path / name)
        with pytest.raises(FileExistsError, match=name):
            output_folders.check_free(tmp_path / name)
    for check in (output_folders.check_folder, output_folders.check_free, write):
        with pytest.raises(NotADirectoryError, match=r"file is not a folder.*give another name"):
            check(tmp_path / "file" / "below" / "m")
    assert tree(tmp_path) == before


def test_what_is_put_there_meanwhile_stays(tmp_path):
    for name in ("new", "old"):
        if name == "old":
            write(tmp_path / name)

        def put(folder=tmp_path / name):
            folder.mkdir(exist_ok=True)
            (folder / "mine.txt").write_text("mine")

        with pytest.raises(FileExistsError, match=name):
            write(tmp_path / name, "more", put)
        assert (tmp_path / name / "mine.txt").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["new", "old"]


def test_our_folders_inside_our_folder_belong_to_it(tmp_path):
    write(tmp_path / "m")
    write(tmp_path / "m" / "inner")
    output_folders.check_folder(tmp_path / "m")
    (tmp_path / "m" / "inner" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"inner: mine\.txt is not on its card"):
        output_folders.check_folder(tmp_path / "m")
    (tmp_path / "m" / "inner" / "mine.txt").unlink()
    output_folders.remove_folder(tmp_path / "m")
    assert not (tmp_path / "m").exists()


WRITER = """
import sys, time
from pathlib import Path
from emqa_dask import models, output_folders
target, moment = Path(sys.argv[1]), sys.argv[2]
rename = output_folders.os.rename
def slow(old, new):
    rename(old, new)
    if moment == "swap":
        print("now", flush=True)
        time.sleep(60)
output_folders.os.rename = slow
with output_folders.write_folder(target) as fresh:
    (fresh / "weights.bin").write_text("new")
    models.write_model_card(fresh, {"name": "a"})
    if moment == "write":
        print("now", flush=True)
        time.sleep(60)
"""


@pytest.mark.real
@pytest.mark.parametrize("moment", ["write", "swap"])
def test_a_killed_writer_loses_nothing_and_leaves_nothing(moment, tmp_path):
    write(tmp_path / "m", "first")
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path / "m"), moment], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout.readline() == "now\n"
    output_folders.restore_interrupted(tmp_path / "m")  # its writer is at work: nothing goes
    hidden = [name for name in os.listdir(tmp_path) if name.endswith(".partial")]
    assert len(hidden) == 1
    writer.send_signal(signal.SIGKILL)
    writer.communicate(timeout=30)
    for name in ("m-other", "n"):  # of other targets nothing is touched
        output_folders.restore_interrupted(tmp_path / name)
    assert [name for name in os.listdir(tmp_path) if name.endswith(".partial")] == hidden
    output_folders.restore_interrupted(tmp_path / "m")
    assert os.listdir(tmp_path) == ["m"]
    assert (tmp_path / "m" / "weights.bin").read_text() == "first"


def test_a_users_folder_with_a_hidden_name_of_ours_stays(tmp_path):
    for name, text in ((".m-abcd1234.partial", "mine"), (".m-abcd5678.partial", None)):
        (tmp_path / name / "new").mkdir(parents=True)
        (tmp_path / name / "new" / "scan.tif").write_text("mine")
        if text:
            (tmp_path / name / output_folders.MARKER).write_text(text)
    before = tree(tmp_path)
    write(tmp_path / "m")
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
