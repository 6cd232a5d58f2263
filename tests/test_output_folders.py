"""No verb changes what a user has: folders and files at every path that a verb takes as output, or derives from one."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile

from emqa_dask.cli import main
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.windows import WindowSettings
from tests.train.conftest import box_of, discs

pytestmark = pytest.mark.usefixtures("one_thread")

HERE = ("--scheduler", "in-process", "--detector", "log")
NOTHING = "nothing/is here"  # an input that is missing: a verb that is refused does not get as far as to look for it


def put_folder(place: Path) -> None:
    """What people have: a micrograph, notes, a card of somebody else's, a folder in the folder."""
    (place / "scans").mkdir(parents=True)
    tifffile.imwrite(place / "micrograph.tif", np.arange(48 * 64, dtype=np.uint16).reshape(48, 64))
    (place / "notes.txt").write_text("day 3: stigmator was off")
    (place / ".notes").write_text("hidden")
    (place / "card.toml").write_text('name = "mine"\ntask = "classification"\n')
    (place / "weights.safetensors").write_bytes(b"weights")
    (place / "scans" / "state.json").write_text("{}")
    (place / "link").symlink_to("notes.txt")


def put_file(place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("threshold = 0.2  # mine\n")


def put_link(place: Path) -> None:
    """A symbolic link to a folder that is elsewhere."""
    put_folder(place.with_name("elsewhere"))
    place.symlink_to("elsewhere")


KINDS = {"folder": put_folder, "file": put_file, "link": put_link}


def tree(place: Path) -> dict:
    """All that is at `place` and, where that is a link, behind it."""
    found = {".": os.readlink(place) if place.is_symlink() else "there"}
    if place.is_file():
        return found | {"bytes": place.read_bytes()}
    for path in sorted(place.rglob("*")):
        what = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(place))] = what
    return found | ({"behind": tree(place.resolve())} if place.is_symlink() else {})


def assert_refused(capsys, command, place: Path) -> None:
    """`command` ends with one line that names `place` and says what to do."""
    assert main(list(map(str, command))) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    said = [line for line in lines if line.startswith("emqa: ")]
    assert len(said) == 1
    assert said[0] == lines[-1]
    assert str(place) in said[0]
    assert any(word in said[0] for word in ("give ", "choose ", "move it away")), said[0]


@pytest.fixture(scope="module")
def workspace(small_archive, tmp_path_factory):
    root = tmp_path_factory.mktemp("outputs") / "ws"
    assert main(["ingest", str(small_archive), "--workspace", str(root), *HERE]) == 0
    assert main(["featurise", str(root), *HERE]) in (0, 2)
    return root


@pytest.fixture(scope="module")
def disc_set(tmp_path_factory):
    """Two images with discs as a COCO file and as labels.csv."""
    folder = tmp_path_factory.mktemp("outputs") / "discs"
    folder.mkdir()
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "disc"}]}
    rows = ["uri,label"]
    for k in range(12):
        image, masks = discs(np.random.default_rng(k))
        tifffile.imwrite(folder / f"{k}.tif", image)
        rows.append(f"{k}.tif,{'ab'[k % 2]}")
        if k < 2:
            content["images"].append({"id": k, "file_name": f"{k}.tif", "height": 80, "width": 80})
            for mask in masks:
                row = {"id": len(content["annotations"]), "image_id": k, "category_id": 1, "bbox": box_of(mask)}
                content["annotations"].append(row)
    (folder / "labels.json").write_text(json.dumps(content))
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    return folder


# Every verb with an output, with inputs that are missing, and the names that it derives from the output.
ENSEMBLE = ("train", "ensemble", NOTHING, *HERE, "--out")
DETECTOR = ("train", "detector", "--coco", NOTHING, "--images", NOTHING, "--out")
IMPORT = ("import", "detector", NOTHING, "--config", NOTHING, "--classes", "a", "--out")
REFUSED = {
    "train detector": (DETECTOR, ("out", "out.checkpoint")),
    "train detector, resumed": ((*DETECTOR[:-1], "--resume", "--out"), ("out", "out.checkpoint")),
    "train ensemble": (ENSEMBLE, ("out", "out.training")),
    "import detector": (IMPORT, ("out",)),
    "import detector of torchvision": ((*IMPORT[:3], "--architecture", *IMPORT[4:]), ("out",)),
    "synthesise": (("synthesise", "--profile", "demo", "--n", "2"), ("out", "out.truth")),
    "certificates": (("certificates",), ("out",)),
    "tune log": (("tune", "log", NOTHING, *HERE, "--out"), ("out", "out.tune", "out.tune/all")),
    "tune order": (("tune", "order", NOTHING, *HERE, "--out"), ("out",)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("verb", "name"), [(verb, name) for verb, (_, names) in REFUSED.items() for name in names], ids=str
)
def test_what_is_at_an_output_is_refused_before_any_work(verb, name, kind, tmp_path, capsys):
    KINDS[kind](tmp_path / name)
    before = tree(tmp_path)
    assert_refused(capsys, (*REFUSED[verb][0], tmp_path / "out"), tmp_path / name)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("verb", REFUSED)
def test_an_output_below_a_file_is_refused(verb, tmp_path, capsys):
    put_file(tmp_path / "file")
    before = tree(tmp_path)
    assert_refused(capsys, (*REFUSED[verb][0], tmp_path / "file" / "below" / "out"), tmp_path / "file")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["triage", "ingest", "tune log", "tune order"])
def test_what_is_at_a_new_workspace_stays(verb, kind, small_archive, tmp_path, capsys):
    KINDS[kind](tmp_path / "ws")
    before = tree(tmp_path)
    more = ("--out", tmp_path / "out") if verb.startswith("tune") else ()
    assert_refused(capsys, (*verb.split(), small_archive, "--workspace", tmp_path / "ws", *HERE, *more), "ws")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("verb", ["triage", "ingest", "tune log", "tune order"])
def test_what_is_at_the_default_workspace_stays(verb, kind, small_archive, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    KINDS[kind](tmp_path / f"{small_archive.name}.emqa")
    before = tree(tmp_path)
    assert_refused(capsys, (*verb.split(), small_archive, *HERE), f"{small_archive.name}.emqa")
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "verb", ["detect", "classify", "featurise", "predict", "report", "rescore", "status", "retry", "calibrate"]
)
def test_a_folder_that_is_no_workspace_stays_as_it_is(verb, kind, tmp_path, capsys):
    KINDS[kind](tmp_path / "ws")
    before = tree(tmp_path)
    more = {"retry": ["--failed"], "calibrate": [NOTHING]}.get(verb, [])
    assert main([verb, str(tmp_path / "ws"), *more, *([] if verb == "status" else HERE)]) == 1
    assert [line[:6] for line in capsys.readouterr().err.strip().splitlines()] == ["emqa: "]
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["out", "out/log", "models/log"])
def test_calibrate_leaves_what_is_there(name, kind, workspace, tmp_path, capsys):
    shutil.copytree(workspace, tmp_path / "ws")
    place = tmp_path / ("ws/models/log" if name == "models/log" else name)
    KINDS[kind](place)
    before = tree(place)
    settings = (tmp_path / "ws" / "settings.toml").read_bytes()
    out = () if name == "models/log" else ("--out", tmp_path / "out")
    command = ("calibrate", tmp_path / "ws", NOTHING, *out)
    if (name, kind) in {("out", "folder"), ("out", "link")}:  # a folder of models may have other things in it
        assert main(list(map(str, command))) == 1
        assert NOTHING in capsys.readouterr().err
    else:
        assert_refused(capsys, command, place)
    assert tree(place) == before
    assert (tmp_path / "ws" / "settings.toml").read_bytes() == settings


def test_calibrate_keeps_what_is_beside_its_models(small_archive, workspace, tmp_path):
    shutil.copytree(workspace, tmp_path / "ws")
    put_folder(tmp_path / "out")
    before = tree(tmp_path / "out")
    labels = small_archive.parent / f"{small_archive.name}.truth" / "annotations.json"
    for _ in range(2):  # the second run replaces the models of the first
        assert main(["calibrate", str(tmp_path / "ws"), str(labels), "--out", str(tmp_path / "out")]) == 0
        after = tree(tmp_path / "out")
        assert {name: after[name] for name in before} == before
        assert set(after) - set(before) == {
            "log",
            "log/card.toml",
            "log/quality_model.safetensors",
            "log/labelled_images.json",
            "log/domain.safetensors",
            "log/trust.png",
        }


NAMES_BESIDE = ("out.old", "out.writing", "out.new", "out.checkpoint.old", "out.checkpoint.writing", ".out.partial")


def test_train_detector_keeps_what_is_beside_its_model(disc_set, tmp_path):
    for name in (*NAMES_BESIDE, "out.training"):
        put_folder(tmp_path / name)
    before = tree(tmp_path)
    command = ["train", "detector", "--coco", disc_set / "labels.json", "--images", disc_set, "--steps", "1"]
    for _ in range(2):  # the second run replaces the model of the first
        assert main(list(map(str, (*command, "--out", tmp_path / "out")))) == 0
        after = tree(tmp_path)
        assert {name: after[name] for name in before} == before
        assert {name.split("/")[0] for name in set(after) - set(before)} == {"out"}


def test_train_ensemble_keeps_what_is_beside_its_model(disc_set, tmp_path):
    for name in (*NAMES_BESIDE, "out.checkpoint", "out.training.old", "out.training.writing"):
        put_folder(tmp_path / name)
    before = tree(tmp_path)
    command = ["train", "ensemble", disc_set / "labels.csv", "--members", "1", "--window", "16", "--depth", "10"]
    command += ["--widen", "1", "--epochs", "1", "--windows-per-image", "2", "--examples", "2", *HERE]
    assert main(list(map(str, (*command, "--out", tmp_path / "out")))) == 0
    after = tree(tmp_path)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {"out"}


def test_a_users_file_in_a_training_stops_it(tmp_path, capsys):
    stack = np.zeros((8, 16, 16), np.float32)
    y = np.arange(8) % 2
    training_set = TrainingSet.from_arrays(stack, y, ["train"] * 8, ["a", "b"])
    folder = prepare_training(tmp_path / "out", training_set, EnsembleOptions(WindowSettings(16), n_members=1))
    (folder / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    assert_refused(capsys, (*ENSEMBLE, tmp_path / "out"), folder)
    assert tree(tmp_path) == before


def test_tune_log_replaces_its_own_settings_until_somebody_edits_them(workspace, tmp_path, capsys):
    command = ["tune", "log", workspace, "--evaluations", "2", "--images", "1", "--cohort", "*", *HERE]
    command = list(map(str, (*command, "--out", tmp_path / "tuned.toml")))
    for _ in range(2):
        assert main(command) == 0
    assert (tmp_path / "tuned.tune" / "all" / "trace-bayes.csv").is_file()
    with (tmp_path / "tuned.toml").open("a") as file:
        file.write("# mine\n")
    before = tree(tmp_path)
    capsys.readouterr()
    assert_refused(capsys, command, tmp_path / "tuned.toml")
    assert tree(tmp_path) == before


def test_tune_order_goes_on_in_its_own_folder_only(workspace, tmp_path, capsys):
    command = ["tune", "order", workspace, "--cohort", "*", *HERE, "--set", "detect.max_detections=50"]
    command = list(map(str, (*command, "--out", tmp_path / "order")))
    assert main(command) in (0, 2)
    made = tree(tmp_path)
    put_file(tmp_path / "order" / "overlays" / "notes.txt")
    assert main(command) in (0, 2)
    after = tree(tmp_path)
    assert after.pop("order/overlays/notes.txt") == (tmp_path / "order/overlays/notes.txt").read_bytes()
    assert after == made


def test_what_a_user_keeps_in_a_workspace_stays(small_archive, tmp_path):
    root = str(tmp_path / "ws")
    assert main(["ingest", str(small_archive), "--workspace", root, *HERE]) == 0
    for place in ("mine", "report/mine", "models/mine", "micrographs.zarr/mine"):
        put_folder(tmp_path / "ws" / place)
    for name in ("notes.txt", ".download.partial", ".a.0123456789ab.partially"):
        put_file(tmp_path / "ws" / name)
    before = {path: tree(path) for path in (tmp_path / "ws").rglob("*mine*")}
    before |= {tmp_path / "ws" / name: tree(tmp_path / "ws" / name) for name in ("notes.txt", ".download.partial")}
    assert main(["triage", str(small_archive), "--workspace", root, *HERE]) in (0, 2)
    assert main(["rescore", root]) in (0, 2)
    assert main(["retry", root, "--failed"]) in (0, 2)
    assert {path: tree(path) for path in before} == before
