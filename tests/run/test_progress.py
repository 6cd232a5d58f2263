"""Laws of progress: results pass unchanged; a bar on a terminal, lines elsewhere."""

import io
import os
import re
import threading
import time

import pytest

from emqa_dask.run.execute import Task, execute
from emqa_dask.run.progress import format_duration, format_progress, show_progress
from emqa_dask.run.waiting import make_wait_message


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(x, call):
    if x == 2:
        raise ValueError("bad")


def wait_for(event, call):
    call(event.wait, label="a/b\n.elid")


def wait_for_file(path, call):
    call(_until_there, path, label="a/c.tif")


def _until_there(path):
    while not os.path.exists(path):
        time.sleep(0.05)


def results():
    return execute(work, (Task(str(i), (i,), 10) for i in range(4)), stage="s")


def test_elsewhere_it_is_one_line_at_the_end():
    out = io.StringIO()
    assert [r.task.name for r in show_progress(results(), "detect", 40, stream=out)] == ["0", "1", "2", "3"]
    (said,) = out.getvalue().splitlines()
    assert said.startswith("detect: 40 images in 0.0 s, ")
    assert said.endswith("/s, 1 task failed")


def test_a_long_stage_says_how_far_it_is():
    out = io.StringIO()
    assert len(list(show_progress(results(), "detect", 50, stream=out, every_s=0))) == 4
    said = out.getvalue().splitlines()
    assert len(said) == 5
    assert said[0].startswith("detect: 10 of 50 images, ")
    assert said[0].endswith(" left")


def test_on_a_terminal_it_is_a_bar():
    out = Terminal()
    assert len(list(show_progress(results(), "detect", 40, stream=out))) == 4
    said = out.getvalue()
    assert "detect: 100%" in said
    assert "40/40" in said
    assert "1 failed" in said


def test_stages_without_tasks_print_nothing_and_early_ends_their_position():
    out = io.StringIO()
    assert list(show_progress([], "detect", 0, stream=out)) == []
    assert out.getvalue() == ""
    watched = show_progress(results(), "detect", 40, stream=out)
    next(watched)
    watched.close()
    assert out.getvalue().startswith("detect: 10 images in ")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0.0 s"), (4.24, "4.2 s"), (59.9, "59.9 s"), (323, "5:23"), (7500, "2:05:00")]
)
def test_clock(seconds, expected):
    assert format_duration(seconds) == expected


def test_line():
    assert format_progress("detect", 120, 4000, 10, 0) == "detect: 120 of 4000 images, 12.0/s, 5:23 left"
    assert format_progress("detect", 0, 4000, 10, 2) == "detect: 0 of 4000 images, 0.0/s, 2 tasks failed"
    assert format_progress("survey", 30, 30, 10, 1, "files") == "survey: 30 files in 10.0 s, 3.0/s, 1 task failed"


def test_a_stage_without_progress_says_what_it_waits_for(tmp_path):
    out = io.StringIO()
    is_said = threading.Event()

    class Spied(io.StringIO):
        def write(self, text):
            out.write(text)
            if "waiting" in out.getvalue():
                is_said.set()

    todo = [Task("a", (is_said,), 10)]
    results = execute(wait_for, todo, stage="survey")
    assert (
        len(list(show_progress(results, "survey", 10, stream=Spied(), every_s=0.2, waits_for=make_wait_message(None))))
        == 1
    )
    said = out.getvalue().splitlines()[0]
    assert re.fullmatch(r"survey: nothing is done for 0\.\d s, waiting for a/b\?\.elid \(0 s\)", said)


@pytest.mark.real
def test_workers_say_what_they_are_at(client, tmp_path):
    results = execute(wait_for_file, [Task("a", (str(tmp_path / "go"),), 1)], stage="s", client=client)
    thread = threading.Thread(target=lambda: list(results))
    thread.start()
    said = ""
    while "a/c.tif" not in said:
        said = make_wait_message(client)()
    (tmp_path / "go").touch()
    thread.join()
    assert re.fullmatch(r"a/c\.tif \(\d+ s\)|a/c\.tif", said)
    assert make_wait_message(client)() == ""
