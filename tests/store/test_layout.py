"""Laws of the layout: stack names are safe and tell stacks apart; a workspace belongs to one archive."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.store import layout

SIZES = st.floats(1e-12, 1e12)


def test_the_name_says_what_is_in_the_stack():
    assert layout.stack_name(2048, 1024, "uint16", 0.31) == "2048x1024-uint16-0.31nm"
    assert layout.stack_name(1, 100000, ">f4", 2e9) == "1x100000-float32-2e09nm"


@pytest.mark.parametrize("size", [math.nan, math.inf, -math.inf, 0.0, -1.0, None])
def test_an_unknown_pixel_size_is_nopx(size):
    name = layout.stack_name(1, 1, "uint8", size)
    assert name == "1x1-uint8-nopx"
    assert math.isnan(layout.scale_of(name))


@given(size=SIZES, dtype=st.sampled_from(["uint8", "float16", "complex128"]))
def test_names_are_safe_and_say_the_pixel_size(size, dtype):
    name = layout.stack_name(7, 8, dtype, size)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", name)
    assert layout.scale_of(name) == pytest.approx(size, rel=1e-5)


@given(a=SIZES, b=SIZES)
def test_sizes_that_differ_in_six_digits_have_other_names(a, b):
    same = layout.stack_name(7, 8, "uint8", a) == layout.stack_name(7, 8, "uint8", b)
    assert same == (f"{a:.5e}" == f"{b:.5e}")


def test_claiming_twice_is_fine_and_another_archive_is_refused(tmp_path):
    root = str(tmp_path / "w")
    layout.claim(root, "/data/a")
    layout.claim(root, "/data/a")
    assert layout.source_of(root) == "/data/a"
    with pytest.raises(ValueError, match=r"belongs to /data/a, not to /data/b: give --workspace"):
        layout.claim(root, "/data/b")


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"not an emqa workspace and not empty \(it has 'thesis.tex'\)"):
        layout.claim(str(tmp_path), "/data/a")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_and_one_with_hidden_files_can_be_claimed(tmp_path):
    (tmp_path / ".DS_Store").write_text("x")
    layout.claim(str(tmp_path), "/data/a")
    assert layout.source_of(str(tmp_path)) == "/data/a"


@pytest.mark.parametrize(
    ("marker", "said"),
    [
        ('{"format": 99, "source": "/data/a"}', "workspace format 99"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged"),
    ],
)
def test_a_later_or_damaged_marker_is_refused(tmp_path, marker, said):
    (tmp_path / layout.MARKER).write_text(marker)
    with pytest.raises(ValueError, match=said):
        layout.claim(str(tmp_path), "/data/a")


def test_a_file_or_no_workspace_is_refused(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        layout.claim(str(tmp_path / "f"), "/data/a")
    with pytest.raises(ValueError, match="is not an emqa workspace"):
        layout.source_of(str(tmp_path))
