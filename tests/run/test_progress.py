"""Laws of progress: results pass unchanged; a bar on a terminal, lines elsewhere."""

import io

import pytest

from emqa_dask.run.execute import Task, execute
from emqa_dask.run.progress import clock, line, watch


class Terminal(io.StringIO):
    def isatty(self):
        return True


def work(x, call):
    if x == 2:
        raise ValueError("bad")


def results():
    return execute(work, (Task(str(i), (i,), 10) for i in range(4)), stage="s")


def test_elsewhere_it_is_one_line_at_the_end():
    out = io.StringIO()
    assert [r.task.name for r in watch(results(), "detect", 40, stream=out)] == ["0", "1", "2", "3"]
    (said,) = out.getvalue().splitlines()
    assert said.startswith("detect: 40 images in 0.0 s, ")
    assert said.endswith("/s, 1 task failed")


def test_a_long_stage_says_how_far_it_is():
    out = io.StringIO()
    assert len(list(watch(results(), "detect", 50, stream=out, every_s=0))) == 4
    said = out.getvalue().splitlines()
    assert len(said) == 5
    assert said[0].startswith("detect: 10 of 50 images, ")
    assert said[0].endswith(" left")


def test_on_a_terminal_it_is_a_bar():
    out = Terminal()
    assert len(list(watch(results(), "detect", 40, stream=out))) == 4
    said = out.getvalue()
    assert "detect: 100%" in said
    assert "40/40" in said
    assert "1 failed" in said


def test_a_stage_without_tasks_says_nothing_and_an_early_end_says_where_it_was():
    out = io.StringIO()
    assert list(watch([], "detect", 0, stream=out)) == []
    assert out.getvalue() == ""
    watched = watch(results(), "detect", 40, stream=out)
    next(watched)
    watched.close()
    assert out.getvalue().startswith("detect: 10 images in ")


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0, "0.0 s"), (4.24, "4.2 s"), (59.9, "59.9 s"), (323, "5:23"), (7500, "2:05:00")]
)
def test_clock(seconds, expected):
    assert clock(seconds) == expected


def test_line():
    assert line("detect", 120, 4000, 10, 0) == "detect: 120 of 4000 images, 12.0/s, 5:23 left"
    assert line("detect", 0, 4000, 10, 2) == "detect: 0 of 4000 images, 0.0/s, 2 tasks failed"
    assert line("survey", 30, 30, 10, 1, "files") == "survey: 30 files in 10.0 s, 3.0/s, 1 task failed"
