"""The checked card of an ensemble's model directory, and the faults of its members."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from emqa_dask import classifiers, models
from emqa_dask.windows import WindowSettings

TASK = "classification"
METHODS = ("softmax", "dropout", "ensemble")
REQUIRED_KEYS = ("name", "classes", "architecture", "input", "ensemble", "files")
DEFAULT_PASSES = 16  # of MC dropout


@dataclass(frozen=True)
class ClassifierCard:
    """The contents of a model directory's card, checked."""

    directory: Path
    digest: str  # SHA-256 of card.toml
    name: str
    classes: tuple[str, ...]
    architecture: Mapping[str, object]  # see classifiers.build_classifier
    backbone_digest: str  # SHA-256 of the card of the bundled backbone that the members share; "" without one
    window_settings: WindowSettings
    method: str  # one of METHODS
    members: tuple[str, ...]  # files of all members
    files: tuple[str, ...]  # files of the usable members, in the same order
    faults: Mapping[str, str]  # file of a member -> why it cannot be used
    passes: int  # of MC dropout
    seed: int  # of MC dropout
    min_members: int  # usable members that the ensemble needs

    @property
    def n_members(self) -> int:
        """Members of the full ensemble."""
        return len(self.members)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises ValueError unless `classes` are the card's, in the card's order."""
        if tuple(classes) != self.classes:
            unknown_classes = sorted(set(classes) - set(self.classes))
            absent_classes = sorted(set(self.classes) - set(classes))
            reason = (
                f"not on the card: {unknown_classes}, missing: {absent_classes}"
                if unknown_classes or absent_classes
                else "their order differs"
            )
            raise ValueError(f"{self.directory / 'card.toml'}: other classes than this classifier's: {reason}")


def read_classifier_card(name: str | Path) -> ClassifierCard:
    """The card of a model directory or a bundled model; missing and changed members are listed in `faults`.

    Raises ModelNotFound where there is no card; ModelError, naming keys, for a card of another kind of model,
    missing and invalid keys, and fewer usable members than `min_members` (by default half of the members).
    """
    directory = models.locate_model(str(name))
    table = models.read_model_card(directory)
    with models.blame_model(directory / "card.toml"):  # also values of other types than a card's
        model_card = _parse_card(directory, table)
    check_members(model_card)
    return model_card


def _parse_card(directory: Path, table: Mapping) -> ClassifierCard:
    _check_table(directory / "card.toml", table)
    ensemble = table["ensemble"]
    members = tuple(ensemble["members"])
    faults = {file: fault for file in members if (fault := _find_fault(directory, file, table["files"]))}
    return ClassifierCard(
        directory=directory,
        digest=models.digest_model_card(directory),
        name=str(table["name"]),
        classes=tuple(table["classes"]),
        architecture=classifiers.complete_architecture(table["architecture"]),
        backbone_digest=str(table.get("backbone_digest", "")),
        window_settings=WindowSettings(**table["input"]),
        method=ensemble["method"],
        members=members,
        files=tuple(file for file in members if file not in faults),
        faults=faults,
        passes=int(ensemble.get("passes", DEFAULT_PASSES)),
        seed=int(ensemble.get("seed", 0)),
        min_members=int(ensemble.get("min_members", 0)) or (len(members) + 1) // 2,
    )


def _check_table(path: Path, table: Mapping) -> None:
    """Raises ModelError that names all missing and invalid keys."""
    if table.get("task") != TASK:
        task = table.get("task")
        raise models.ModelError(f"{path}: not the card of a classifier: task {task!r}, it has to be {TASK!r}")
    missing = [key for key in REQUIRED_KEYS if not table.get(key)]
    if missing:
        raise models.ModelError(f"{path}: lacks {', '.join(missing)}")
    errors = [*_check_card_classes(table), *_check_ensemble(table)]
    unknown = sorted(set(table["input"]) - {field.name for field in fields(WindowSettings)})
    if unknown or "size_px" not in table["input"]:
        errors.append(f"[input]: unknown {unknown}, size_px is needed")
    if errors:
        raise models.ModelError(f"{path}: {'; '.join(errors)}")


def _check_card_classes(table: Mapping) -> list[str]:
    """Errors of the classes."""
    classes = table["classes"]
    if not isinstance(classes, list) or len(set(map(str, classes))) != len(classes):
        return ["classes has to be a list of names, each once"]
    n_classes = table["architecture"].get("n_classes")
    return [f"{len(classes)} classes, [architecture] n_classes is {n_classes}"] if n_classes != len(classes) else []


def _check_ensemble(table: Mapping) -> list[str]:
    """Errors of the table [ensemble]."""
    ensemble = table["ensemble"]
    method = ensemble.get("method")
    members = ensemble.get("members", [])
    errors = []
    if method not in METHODS:
        errors.append(f"[ensemble] method is {method!r}: one of {', '.join(METHODS)}")
    elif not members or (method != "ensemble" and len(members) != 1):
        errors.append(f"[ensemble] members has {len(members)} files for method {method!r}")
    n_passes = int(ensemble.get("passes", DEFAULT_PASSES))
    dropout = table["architecture"].get("dropout", 0)
    if method == "dropout" and (n_passes < 1 or not dropout):
        errors.append(f"MC dropout of {n_passes} passes, dropout {dropout}: both above 0")
    return errors


def check_members(model_card: ClassifierCard) -> None:
    """Raises models.ModelError when fewer than the card's `min_members` are usable."""
    n_required = max(1, model_card.min_members)
    if len(model_card.files) < n_required:
        faults = "; ".join(f"{file}: {fault}" for file, fault in model_card.faults.items())
        counts = (
            f"{len(model_card.files)} of {model_card.n_members} members can be used, at least {n_required} are needed"
        )
        raise models.ModelError(f"{model_card.directory}: {counts} ({faults}); copy them again or train them again")


def _find_fault(directory: Path, file: str, checksums: Mapping[str, str]) -> str:
    """Why a member cannot be used; "" when it can."""
    if file not in checksums:
        return "the card has no SHA-256 of it"
    if not (directory / file).is_file():
        return "it is not there"
    checksum = models.hash_file(directory / file)
    return "" if checksum == checksums[file] else f"SHA-256 is {checksum[:12]}, the card says {checksums[file][:12]}"
