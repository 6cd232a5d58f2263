"""Models are verified before a run; whatever is wrong with one is a ModelError that names it, and no image's fault."""

import shutil
from pathlib import Path

import pandas as pd
import pytest

from emqa_dask import models
from emqa_dask.classify import load_ensemble
from emqa_dask.cli import main
from emqa_dask.detect.mask_rcnn import load_detector
from emqa_dask.predict.predictions import load_quality_model
from emqa_dask.synthetic.archive import synthesise

HERE = ("--scheduler", "in-process")
LOADED = {"cavity-tem": load_detector, "cavity-tem-f1": load_quality_model, "log-synthetic": load_quality_model}
REMEDY = "restore it from a copy, or train or import the model again"


def copy(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(models.BUNDLED / name, folder / name))


def flip(path: Path) -> None:
    """One bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def assert_refused(capsys, command, *said) -> None:
    assert main(list(map(str, command))) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("emqa: ")]
    assert len(lines) == 1
    for text in said:
        assert str(text) in lines[0]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "archive"
    synthesise(folder, "cavity-tem", n=3, seed=3, shape=(128, 144), faults=())
    return folder


def test_damaged_weights_stop_a_run_and_quarantine_nothing(archive, tmp_path, capsys):
    detector = copy("cavity-tem", tmp_path)
    root = tmp_path / "ws"
    command = ["triage", archive, "--workspace", root, "--detector", detector, *HERE]
    sound = (detector / "weights.safetensors").read_bytes()
    flip(detector / "weights.safetensors")
    assert_refused(capsys, command, detector / "weights.safetensors", "SHA-256", REMEDY)
    assert not root.exists()
    (detector / "weights.safetensors").write_bytes(sound)  # the remedy
    assert main(list(map(str, command))) == 0
    flip(detector / "weights.safetensors")
    assert_refused(capsys, ["triage", archive, "--workspace", root, *HERE], "weights.safetensors", REMEDY)
    (detector / "weights.safetensors").write_bytes(sound)
    assert main(["triage", str(archive), "--workspace", str(root), *HERE]) == 0
    assert pd.read_parquet(root / "failures.parquet").empty
    assert set(pd.read_parquet(root / "triage.parquet")["status"]) == {"ok", "skipped"}


def damage_card(folder: Path) -> None:
    (folder / "card.toml").write_bytes(b"\xff\xfe")


FILES = {
    "log-synthetic": "forest.skops",
    "cavity-tem-f1": "quality_model.safetensors",
    "cavity-tem": "weights.safetensors",
}
DAMAGES = {
    "a bit": (lambda folder, file: flip(folder / file), "SHA-256 is"),
    "no file": (lambda folder, file: (folder / file).unlink(), "which is not there"),
    "a folder": (lambda folder, file: ((folder / file).unlink(), (folder / file).mkdir()), "cannot be read"),
    "the card": (lambda folder, file: damage_card(folder), "not valid TOML"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", FILES)
def test_every_model_of_a_run_is_verified_first(name, damage, archive, tmp_path, capsys):
    folder = copy(name, tmp_path)
    file = FILES[name]
    change, said = DAMAGES[damage]
    change(folder, file)
    of = ["--detector", folder] if name == "cavity-tem" else ["--set", f"predict.models=['{folder}']"]
    assert_refused(capsys, ["triage", archive, "--workspace", tmp_path / "ws", *of, *HERE], folder, said, REMEDY)
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize("other", ["log-synthetic", "content"])
def test_a_model_of_another_kind_is_refused_as_detector(other, archive, tmp_path, capsys):
    assert_refused(
        capsys,
        ["triage", archive, "--workspace", tmp_path / "ws", "--detector", other, *HERE],
        "not the card of a Mask",
    )
    assert not (tmp_path / "ws").exists()


def test_a_bundled_model_is_installed_again_and_others_are_restored(tmp_path):
    assert models.describe_remedy(models.BUNDLED / "content") == "reinstall emqa_dask"
    assert models.describe_remedy(tmp_path) == REMEDY
    models.verify_models([path for path in models.BUNDLED.iterdir() if path.is_dir()])
    with pytest.raises(models.ModelNotFound, match="no model 'nothing'"):
        models.verify_models(["nothing"])


def stamped(name: str, folder: Path, change) -> Path:
    """A copy of a model with other content and a card that says so: as an ill-made model has it."""
    made = copy(name, folder)
    card = {key: value for key, value in models.load_model_card(made).items() if key != "files"}
    change(made, card)
    models.write_model_card(made, card)
    return made


def garbage(folder: Path, card: dict) -> None:
    for path in folder.iterdir():
        if path.name != "card.toml":
            path.write_bytes(b"garbage" * 100)


def odd_values(folder: Path, card: dict) -> None:
    for part in ("architecture", "quality_model", "forest", "input"):
        card |= {part: dict.fromkeys(card[part], "odd")} if part in card else {}


@pytest.mark.parametrize("change", [garbage, odd_values])
@pytest.mark.parametrize("name", LOADED)
def test_a_model_that_cannot_be_loaded_is_named(name, change, tmp_path):
    made = stamped(name, tmp_path, change)
    with pytest.raises(models.ModelError, match=str(made)) as caught:
        LOADED[name](made)
    assert "\n" not in " ".join(str(caught.value).split())


def test_a_classifier_that_cannot_be_loaded_is_named(tmp_path):
    (tmp_path / "weights.safetensors").write_bytes(b"garbage")
    card = {"name": "a", "task": "classification", "classes": ["a", "b"], "input": {"size_px": 16}}
    card |= {"architecture": {"n_classes": 2, "depth": 10, "widen": 1}}
    members = {"method": "ensemble", "members": ["weights.safetensors"]}
    for told in (members, members | {"members": [{}]}, members | {"passes": "many"}, 3):
        models.write_model_card(tmp_path, card | {"ensemble": told})
        with pytest.raises(models.ModelError, match=str(tmp_path)):
            load_ensemble(tmp_path)


def test_errors_of_models_are_still_what_they_were():
    assert issubclass(models.ModelNotFound, FileNotFoundError)
    assert issubclass(models.MissingPackage, ImportError)
    assert issubclass(models.ModelError, ValueError)
    with pytest.raises(models.MissingPackage, match="no module"), models.blame_model(Path("m")):
        raise ImportError("no module")
    with pytest.raises(MemoryError), models.blame_model(Path("m")):
        raise MemoryError


def test_a_changed_card_is_refused_until_its_checksum_is_removed(tmp_path):
    directory = copy("log-synthetic", tmp_path)
    card = directory / "card.toml"
    whole = card.read_text()
    card.write_text(whole.replace("score_floor = 0.1", "score_floor = 0.2"))
    assert card.read_text() != whole
    with pytest.raises(models.ModelError, match=r"was changed or damaged .*; delete its last line"):
        models.load_model_card(directory)
    card.write_text(card.read_text().rstrip("\n").rpartition("\n")[0] + "\n")  # what the message says
    assert models.load_model_card(directory)["forest"]["score_floor"] == 0.2
    models.write_model_card(
        directory, {key: value for key, value in models.read_model_card(directory).items() if key != "files"}
    )
    assert models.load_model_card(directory)["forest"]["score_floor"] == 0.2


def test_no_flipped_bit_of_a_card_gives_another_model(tmp_path):
    directory = copy("log-synthetic", tmp_path)
    expected = models.read_model_card(directory)
    whole = (directory / "card.toml").read_bytes()
    for bit in range(0, 8 * len(whole), 7):  # every bit of the byte in turn
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        (directory / "card.toml").write_bytes(data)
        try:
            assert models.read_model_card(directory) == expected, bit
        except models.ModelError:
            continue
