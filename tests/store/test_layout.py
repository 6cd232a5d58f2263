"""Laws of the layout: stack names are safe and tell stacks apart; a workspace belongs to one archive."""

import math
import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask import checksummed_text
from emqa_dask.settings import RENAMED_KEYS, Settings, SettingsError, replace
from emqa_dask.store import layout, marker, stored_settings

SIZES = st.floats(1e-12, 1e12)


def test_the_name_says_what_is_in_the_stack():
    assert layout.name_stack(2048, 1024, "uint16", 0.31) == "2048x1024-uint16-0.31nm"
    assert layout.name_stack(1, 100000, ">f4", 2e9) == "1x100000-float32-2e09nm"


@pytest.mark.parametrize("size", [math.nan, math.inf, -math.inf, 0.0, -1.0, None])
def test_an_unknown_pixel_size_is_nopx(size):
    name = layout.name_stack(1, 1, "uint8", size)
    assert name == "1x1-uint8-nopx"
    assert all(math.isnan(size) for size in layout.parse_pixel_sizes_nm(name))


@given(size=SIZES, dtype=st.sampled_from(["uint8", "float16", "complex128"]))
def test_names_are_safe_and_say_the_pixel_size(size, dtype):
    name = layout.name_stack(7, 8, dtype, size)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", name)
    assert layout.parse_pixel_sizes_nm(name) == pytest.approx((size, size), rel=1e-5)


@given(y=SIZES, x=SIZES, dtype=st.sampled_from(["uint8", "float16", "complex128"]))
def test_names_have_both_sizes_of_pixels_that_are_not_square(y, x, dtype):
    name = layout.name_stack(7, 8, dtype, x, y)
    assert re.fullmatch(r"[A-Za-z0-9.-]+", name)
    assert layout.parse_pixel_sizes_nm(name) == pytest.approx((y, x), rel=1e-5)
    assert layout.parse_shape(name) == (7, 8, dtype)
    assert (name == layout.name_stack(7, 8, dtype, x)) == (f"{y:.5e}" == f"{x:.5e}")


def test_a_size_along_y_alone_is_no_pixel_size():
    assert layout.name_stack(2048, 1024, "uint16", 0.62, 0.31) == "2048x1024-uint16-0.31x0.62nm"
    assert layout.name_stack(4, 5, "uint8", math.nan, 0.31) == "4x5-uint8-nopx"
    assert layout.name_stack(4, 5, "uint8", 0.31, math.nan) == layout.name_stack(4, 5, "uint8", 0.31, 0.31)


@given(a=SIZES, b=SIZES)
def test_sizes_that_differ_in_six_digits_have_other_names(a, b):
    same = layout.name_stack(7, 8, "uint8", a) == layout.name_stack(7, 8, "uint8", b)
    assert same == (f"{a:.5e}" == f"{b:.5e}")


def test_claiming_twice_is_fine_and_another_archive_is_refused(tmp_path):
    root = str(tmp_path / "w")
    marker.claim_workspace(root, "/data/a")
    marker.claim_workspace(root, "/data/a")
    assert marker.read_source(root) == "/data/a"
    with pytest.raises(ValueError, match=r"belongs to /data/a, not to /data/b: give --workspace"):
        marker.claim_workspace(root, "/data/b")


def test_several_sources_are_claimed_in_any_order(tmp_path):
    root = str(tmp_path / "w")
    sources = {"/data/b": "b", "/data/a": "a", "s3://x/c": "c"}
    marker.claim_workspace(root, sources)
    marker.claim_workspace(root, dict(sorted(sources.items())))
    assert list(marker.read_sources(root).items()) == sorted(sources.items())
    assert marker.read_source(root) == "/data/a, /data/b, s3://x/c"
    moved = {"/data/b": "b", "/data/a": "a", "s3://x/d": "d"}
    with pytest.raises(
        ValueError, match=r"belongs to .*: give --workspace another folder or, .* --moved-from s3://x/c"
    ):
        marker.claim_workspace(root, moved)
    for other_sources in ("/data/a", {"/data/a": "a", "/data/b": "b"}, sources | {"/d": "d"}):
        with pytest.raises(ValueError, match=r"belongs to .* or give all sources of before"):
            marker.claim_workspace(root, other_sources)
    assert marker.read_sources(root) == sources


def test_no_flipped_bit_of_a_marker_gives_other_sources(tmp_path):
    sources = {"/data/a": "a", "/data/b": "b"}
    marker.claim_workspace(str(tmp_path), sources)
    file = tmp_path / marker.MARKER_NAME
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        file.write_bytes(flip(whole, bit))
        error = refusal(marker.read_sources, str(tmp_path), sources)
        assert error is None or f"{file} is damaged: run `emqa triage SRC --workspace" in error


def test_a_folder_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match=r"not an emqa workspace and not empty \(it has 'thesis.tex'\)"):
        marker.claim_workspace(str(tmp_path), "/data/a")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_folders_without_visible_files_can_be_claimed(tmp_path):
    (tmp_path / ".DS_Store").write_text("x")
    marker.claim_workspace(str(tmp_path), "/data/a")
    assert marker.read_source(str(tmp_path)) == "/data/a"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"format": 99, "source": "/data/a"}', "workspace format 99"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"format": 1}', "damaged"),
        ('{"format": 5, "source": 3}', "damaged"),
        ("[" * 100_000, "damaged"),
        ('{"format": 5, "source": "/data/b", "sha256": "0"}', "damaged"),
        ('{"format": 1, "source": "/data/a"}', "of an older emqa_dask: run `emqa triage /data/a --workspace NEW`"),
    ],
)
def test_a_later_or_damaged_marker_is_refused(tmp_path, content, said):
    (tmp_path / marker.MARKER_NAME).write_text(content)
    for check in (lambda root: marker.claim_workspace(root, "/data/a"), marker.read_source):
        with pytest.raises(ValueError, match=said) as raised:
            check(str(tmp_path))
        assert len(str(raised.value).splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == [marker.MARKER_NAME]


def test_a_file_or_no_workspace_is_refused(tmp_path):
    (tmp_path / "f").write_text("x")
    with pytest.raises(ValueError, match="is a file"):
        marker.claim_workspace(str(tmp_path / "f"), "/data/a")
    with pytest.raises(ValueError, match="is not an emqa workspace"):
        marker.read_source(str(tmp_path))


@pytest.mark.parametrize("version", [marker.WORKSPACE_FORMAT - 1, marker.WORKSPACE_FORMAT + 1])
def test_settings_of_another_format_are_not_read(tmp_path, version):
    (tmp_path / marker.MARKER_NAME).write_bytes(checksummed_text.format_marker(version, "/data/a"))
    (tmp_path / "settings.toml").write_text("[of_another]\nversion = 1\n")
    with pytest.raises(ValueError, match=f"has workspace format {version}"):
        stored_settings.read_settings(str(tmp_path))


def test_settings_are_read_back_and_defaults_count_without(tmp_path):
    root = str(tmp_path)
    marker.claim_workspace(root, "/data/a")
    assert stored_settings.read_settings(root) == Settings()
    settings = replace(Settings(), {"detect": {"threshold": 0.5}, "cohorts": [{"uri": "a/*", "threshold": 0.1}]})
    stored_settings.write_settings(root, settings)
    assert stored_settings.read_settings(root) == settings


def test_a_renamed_key_in_stored_settings_is_refused(tmp_path):
    marker.claim_workspace(str(tmp_path), "/data/a")
    for former, present in RENAMED_KEYS.items():
        section, _, key = former.partition(".")
        old = f"[{section}]\n{key} = 1\n"
        (tmp_path / "settings.toml").write_bytes(checksummed_text.add_checksum(old, checksummed_text.SETTINGS_HEAD))
        with pytest.raises(SettingsError, match=f"{former} was renamed: write {present}, .*: run `emqa triage /data/a"):
            stored_settings.read_settings(str(tmp_path))


def test_no_flipped_bit_of_the_settings_gives_other_settings(tmp_path):
    root = str(tmp_path)
    marker.claim_workspace(root, "/data/a")
    settings = replace(Settings(), {"triage": {"trust_f1": 0.5}})
    stored_settings.write_settings(root, settings)
    file = tmp_path / "settings.toml"
    whole = file.read_bytes()
    for bit in random.Random(0).sample(range(8 * len(whole)), 500):
        file.write_bytes(flip(whole, bit))
        error = refusal(stored_settings.read_settings, root, settings)
        assert error is None or f"{file} was changed since emqa wrote it: " in error


def test_no_flipped_bit_of_the_marker_gives_another_archive(tmp_path):
    marker.claim_workspace(str(tmp_path), "/data/a")
    file = tmp_path / marker.MARKER_NAME
    whole = file.read_bytes()
    for bit in range(8 * len(whole)):
        file.write_bytes(flip(whole, bit))
        error = refusal(marker.read_source, str(tmp_path), "/data/a")
        assert error is None or f"{file} is damaged: run `emqa triage SRC --workspace" in error


def flip(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def refusal(read, root: str, expected: object) -> str | None:
    """The error of `read`; None where it gives what is expected."""
    try:
        found = read(root)
    except ValueError as error:
        return str(error)
    assert found == expected
    return None


@pytest.mark.parametrize(
    "data", [b"", b"[detect\n", b"\xff\xfe", b"[detect]\nthreshold = 0.3\n", b"[run]\nworkers = -1\n"]
)
def test_settings_that_emqa_has_not_written_are_refused(tmp_path, data):
    marker.claim_workspace(str(tmp_path), "/data/a b")
    (tmp_path / "settings.toml").write_bytes(data)
    with pytest.raises(SettingsError, match=r"run `emqa triage '/data/a b' --workspace .*` with --settings"):
        stored_settings.read_settings(str(tmp_path))


def test_a_marker_is_only_restored_beside_our_tables(tmp_path):
    for name in ("workspace.json", "thesis.tex"):
        (tmp_path / name).write_text("{")
    with pytest.raises(marker.DamagedMarkerError):
        marker.claim_workspace(str(tmp_path), "/data/a")
    (tmp_path / "settings.toml").write_text("[tool]\n")
    with pytest.raises(marker.DamagedMarkerError):
        marker.claim_workspace(str(tmp_path), "/data/a")
    stored_settings.write_settings(str(tmp_path), Settings())
    marker.claim_workspace(str(tmp_path), "/data/a")
    assert marker.read_source(str(tmp_path)) == "/data/a"
