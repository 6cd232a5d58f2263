"""Numbers on the command line that make no sense: one line, before any input is looked at, and nothing is written."""

import numpy as np
import pytest

from emqa_dask import number_ranges
from emqa_dask.cli import main
from emqa_dask.synthetic.archive import synthesise

NOTHING = "nothing/is here"
HERE = ("--scheduler", "in-process", "--detector", "log")
DETECTOR = ("train", "detector", "--coco", NOTHING, "--images", NOTHING, "--out", "{}/m")
ENSEMBLE = ("train", "ensemble", NOTHING, "--out", "{}/m", *HERE)
TUNE = ("tune", "log", NOTHING, "--out", "{}/tuned.toml", *HERE)
SYNTHESISE = ("synthesise", "{}/archive")
ODD = ("-1", "0", "nan", "inf", "-inf", "1e99", "99999999999999999999999", "x", "")
OPTIONS = {  # and the odd values that are well
    (DETECTOR, "--steps"): (),
    (DETECTOR, "--learning-rate"): ("1e99", "99999999999999999999999"),
    (DETECTOR, "--validation"): ("0",),
    (DETECTOR, "--seed"): ("0",),
    (ENSEMBLE, "--members"): (),
    (ENSEMBLE, "--min-members"): (),
    (ENSEMBLE, "--window"): (),
    (ENSEMBLE, "--windows-per-image"): (),
    (ENSEMBLE, "--depth"): (),
    (ENSEMBLE, "--widen"): (),
    (ENSEMBLE, "--dropout"): ("0",),
    (ENSEMBLE, "--epochs"): (),
    (ENSEMBLE, "--patience"): (),
    (ENSEMBLE, "--batch"): (),
    (ENSEMBLE, "--learning-rate"): ("1e99", "99999999999999999999999"),
    (ENSEMBLE, "--halve-every"): (),
    (ENSEMBLE, "--false-flags"): (),
    (ENSEMBLE, "--examples"): (),
    (ENSEMBLE, "--seed"): ("0",),
    (TUNE, "--evaluations"): (),
    (TUNE, "--images"): (),
    (TUNE, "--windows"): (),
    (TUNE, "--count-per-um2"): ("1e99", "99999999999999999999999"),
    (TUNE, "--nm-per-pixel"): ("1e99", "99999999999999999999999"),
    (TUNE, "--seed"): ("0",),
    (SYNTHESISE, "--n"): (),
    (SYNTHESISE, "--seed"): ("0",),
}


@pytest.mark.parametrize(
    ("command", "option", "value"),
    [(*key, value) for key, well in OPTIONS.items() for value in ODD if value not in well],
    ids=lambda v: v[1] if isinstance(v, tuple) else v,
)
def test_a_number_that_makes_no_sense_is_refused(command, option, value, tmp_path, capsys):
    words = [word.format(tmp_path) for word in command]
    try:
        code = main([*words, f"{option}={value}"])
    except SystemExit as stopped:  # no number at all
        code = stopped.code
    assert code == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("emqa")
    assert NOTHING not in said
    assert option.strip("-").replace("-", "_").split("_")[0] in said or value in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", ["-1", "0", "nan", "inf", "1e99", "1.5", "x"])
def test_calibrate_refuses_an_iou_that_is_none(value, small_archive, tmp_path, capsys):
    root = str(tmp_path / "ws")
    assert main(["ingest", str(small_archive), "--workspace", root, *HERE]) == 0
    capsys.readouterr()
    try:
        code = main(["calibrate", root, NOTHING, f"--iou={value}"])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 1
    assert "--iou" in capsys.readouterr().err.strip().splitlines()[-1]


def test_numbers_of_numpy_are_taken_as_those_of_python(tmp_path):
    assert synthesise(tmp_path / "a", n=int(np.int64(1)), seed=0, shape=(64, 64))["n_micrographs"] == 1
    for value in (True, 1.0, "1", None):
        with pytest.raises(ValueError, match="n is"):
            number_ranges.check_integer("n", value, 1)
    for value in (True, "1", None, float("nan")):
        with pytest.raises(ValueError, match="x is"):
            number_ranges.check_number("x", value, 0)
        with pytest.raises(ValueError, match="x is"):
            number_ranges.check_fraction("x", value)
    number_ranges.check_seed("seed", number_ranges.MAX_SEED)
