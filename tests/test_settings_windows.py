"""Maps of settings: read from the file of a cohort, kept by content, refused where they do not cover one image."""

import pytest

from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings, SettingsError, dump, load_settings, parse, replace
from emqa_dask.settings.detect_windows import COLUMNS, DetectWindow, read_detect_windows

HEAD = ",".join([*COLUMNS, "count_error", "is_fallback"])
LEFT = "0,0,50,40,0.1,0.5,2.0,4.0,5,True,0.02,False"
RIGHT = "0,40,50,80,0.2,0.3,3,6,4,false,,True"


def write_map(path, *rows: str, head: str = HEAD) -> str:
    path.write_text("\n".join([head, *rows]) + "\n")
    return str(path)


@pytest.fixture
def tuned(tmp_path):
    """A settings file with a cohort whose map lies beside it, in a folder."""
    (tmp_path / "maps").mkdir()
    write_map(tmp_path / "maps" / "windows.csv", LEFT, RIGHT)
    (tmp_path / "tuned.toml").write_text('[[cohorts]]\nuri = "a/*"\nwindows = "maps/windows.csv"\noverlap = 0.4\n')
    return tmp_path / "tuned.toml"


def test_a_map_is_read_from_beside_its_settings_file(tuned, monkeypatch, tmp_path_factory):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    settings = load_settings(tuned)
    expected = (
        DetectWindow(0, 0, 50, 40, 0.1, 0.5, 2.0, 4.0, 5, True),
        DetectWindow(0, 40, 50, 80, 0.2, 0.3, 3.0, 6.0, 4, False),
    )
    assert settings.resolve_detect_windows("a/b.tif", None, float("nan")) == expected
    assert settings.resolve_detect_windows("b/b.tif", None, float("nan")) == ()


def test_stored_settings_have_the_content_of_maps(tuned):
    settings = load_settings(tuned)
    text = dump(settings)
    (tuned.parent / "maps" / "windows.csv").unlink()
    assert parse(text, "stored") == settings


def test_folders_depend_on_what_the_map_says_alone(tuned):
    path = tuned.parent / "maps" / "windows.csv"
    folders = list_run_folders(load_settings(tuned))
    write_map(path, LEFT.replace("0.02", "0.5"), RIGHT.replace("True", "False"))
    assert list_run_folders(load_settings(tuned)) == folders
    write_map(path, LEFT.replace("0,0,50,40,0.1,", "0,0,50,40,0.11,"), RIGHT)
    other = list_run_folders(load_settings(tuned))
    assert other["detections"] != folders["detections"]
    assert other["thumbnails"] == folders["thumbnails"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LEFT, RIGHT.replace("0.2", "nan")], r"window 2: threshold is 'nan': it has to be a number"),
        ([LEFT, RIGHT.replace("0.2", "")], r"window 2: threshold is '': it has to be a number"),
        ([LEFT, RIGHT.replace("0.2", "inf")], r"window 2: windows\.threshold is inf: it has to be in 0\.\.\.10"),
        ([LEFT.replace("5,True", "2.5,True"), RIGHT], r"window 1: num_sigma is '2\.5': it has to be a whole number"),
        ([LEFT.replace("True", "yes"), RIGHT], r"window 1: log_scale is 'yes': it has to be true or false"),
        ([LEFT.replace("2.0,4.0", "4.0,2.0"), RIGHT], r"window 1: windows\.min_sigma is 4\.0: .*max_sigma"),
        ([LEFT, RIGHT.replace("0,40,", "0,39,")], "windows 1 and 2 overlap at y 0, x 39"),
        ([LEFT, RIGHT.replace("0,40,", "0,42,")], "no window covers y 0, x 40 of 50 x 80 px"),
        ([RIGHT], "no window covers y 0, x 0 of 50 x 80 px"),
        ([LEFT, RIGHT.replace("0,40,50", "0,40,49")], "no window covers y 49, x 40 of 50 x 80 px"),
        ([LEFT, RIGHT.replace("0,40,50", "50,40,50")], r"window 2: windows\.y0 is 50: it has to be below y1"),
        ([], "it has 0 windows"),
    ],
)
def test_faulty_maps_are_refused_with_file_and_window(tuned, rows, message):
    write_map(tuned.parent / "maps" / "windows.csv", *rows)
    with pytest.raises(SettingsError, match=rf"tuned\.toml: .*windows\.csv: {message}"):
        load_settings(tuned)


def test_files_that_are_no_map_are_refused(tuned, tmp_path):
    path = tuned.parent / "maps" / "windows.csv"
    write_map(path, "0,0", head="y0,x0")
    with pytest.raises(SettingsError, match=r"windows\.csv: it has no column y1, x1, threshold"):
        load_settings(tuned)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match=r"windows\.csv: cannot be read as a table of windows"):
        read_detect_windows(path)
    path.unlink()
    with pytest.raises(SettingsError, match=r"windows\.csv: no such file of windows; emqa tune log --windows"):
        load_settings(tuned)
    with pytest.raises(SettingsError, match=r"windows are a file of emqa tune log, or a list of y0, x0"):
        replace(Settings(), {"cohorts": [{"windows": [[1, 2]]}]}, "s.toml")
