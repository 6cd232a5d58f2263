"""Settings of cohorts: the first that has a micrograph counts, what it does not say holds for all, files keep them."""

import pytest

from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings, SettingsError, dump, parse, replace

TEXT = """
[detect]
threshold = 0.2
overlap = 0.4

[[cohorts]]
uri = "session-1/*"
instrument = "Themis"
threshold = 0.1

[[cohorts]]
uri = "session-*"
magnification = 94000
min_sigma = 2
max_sigma = 9.5
"""


def test_the_first_cohort_that_has_a_micrograph_counts():
    settings = parse(TEXT, "s.toml")
    first = settings.resolve_detect_settings("session-1/a.tif", "Themis", 94000.0)
    second = settings.resolve_detect_settings("session-1/a.tif", "Titan", 94000.0)
    assert (first.threshold, first.overlap, first.min_sigma) == (0.1, 0.4, settings.detect.min_sigma)
    assert (second.threshold, second.min_sigma, second.max_sigma) == (0.2, 2.0, 9.5)
    for uri, instrument, magnification in (("other/a.tif", "Themis", 94000.0), ("session-2/a.tif", None, float("nan"))):
        assert settings.resolve_detect_settings(uri, instrument, magnification) is settings.detect


def test_cohorts_are_read_back_as_they_were_written():
    settings = parse(TEXT, "s.toml")
    assert parse(dump(settings), "again") == settings
    assert len(settings.cohorts) == 2


def test_cohorts_change_the_folders_and_their_absence_does_not():
    settings = parse(TEXT, "s.toml")
    alone = replace(Settings(), {"detect": {"threshold": 0.2, "overlap": 0.4}})
    assert list_run_folders(settings)["detections"] != list_run_folders(alone)["detections"]
    assert list_run_folders(settings)["thumbnails"] == list_run_folders(alone)["thumbnails"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"treshold": 0.1}, "cohorts.treshold.*threshold"), ({"threshold": "low"}, "cohorts.threshold.*float"),
        ({"precision": "float16"}, "cohorts.precision"), ({"min_sigma": 30.0}, "detect.min_sigma"),
        (3, "list of tables"),
        ({"num_sigma": True}, "cohorts.num_sigma"), ({"log_scale": 1}, "cohorts.log_scale"),
    ],
)  # fmt: skip
def test_what_a_cohort_cannot_have_is_named_with_its_file(table, said):
    with pytest.raises(SettingsError, match=f"s.toml.*{said}"):
        replace(Settings(), {"cohorts": [table]}, "s.toml")


def test_diameters_of_a_cohort_become_sigmas():
    settings = parse('[[cohorts]]\nuri = "a/*"\nmin_diameter_nm = 4\nmax_diameter_nm = 20\n', "s.toml")
    detect = settings.resolve_detect_settings("a/b.tif", None, float("nan"), 0.5)
    assert (detect.min_sigma, detect.max_sigma) == pytest.approx((2.8284, 14.1421), abs=1e-4)
    assert settings.resolve_detect_settings("b/b.tif", None, float("nan"), 0.5) is settings.detect


@pytest.mark.parametrize("sizes", ["min_diameter_nm = 4", "max_diameter_nm = 4", "min_diameter_nm = -1"])
def test_diameters_that_do_not_fit_are_refused(sizes):
    with pytest.raises(SettingsError, match=r"detect\.min_diameter_nm"):
        parse(f"[detect]\n{sizes}\n", "s.toml")
    with pytest.raises(SettingsError, match=r"below detect\.max_diameter_nm, which is 3"):
        parse("[detect]\nmin_diameter_nm = 3\nmax_diameter_nm = 3\n", "s.toml")
