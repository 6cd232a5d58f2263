"""The card of an ensemble's model directory, checked, and which of its members are fit for use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from emqa_dask import classifiers, models
from emqa_dask.windows import WindowSettings

TASK = "classification"
METHODS = ("softmax", "dropout", "ensemble")


@dataclass(frozen=True)
class ClassifierCard:
    """What `read` found in a model directory."""

    directory: Path
    digest: str  # SHA-256 of card.toml
    name: str
    classes: tuple[str, ...]
    architecture: Mapping[str, object]  # see classifiers.build_classifier
    view: WindowSettings
    method: str  # one of METHODS
    members: tuple[str, ...]  # the files of all
    files: tuple[str, ...]  # of those that can be used, in the same order
    faults: Mapping[str, str]  # file of a member -> why it cannot be used
    passes: int  # of MC dropout
    seed: int  # of MC dropout
    min_members: int  # fewer are no ensemble

    @property
    def n_members(self) -> int:
        """Members that a full ensemble has."""
        return len(self.members)

    def check_classes(self, classes: Sequence[str]) -> None:
        """Raises ValueError unless `classes` are the card's, in the card's order."""
        if tuple(classes) != self.classes:
            extra = sorted(set(classes) - set(self.classes))
            absent = sorted(set(self.classes) - set(classes))
            said = f"not on the card: {extra}, missing: {absent}" if extra or absent else "their order differs"
            raise ValueError(f"{self.directory / 'card.toml'}: other classes than this classifier's: {said}")


def read_classifier_card(name: str | Path) -> ClassifierCard:
    """The card of a model directory or a bundled model; members that are missing or were changed stand in `faults`.

    Raises ModelNotFound where there is no card; models.ModelError, naming keys, for a card of another kind of model,
    keys that are missing or make no sense, and fewer members left than its `min_members` (without it, half of them).
    """
    directory = models.locate_model(str(name))
    table = models.read_card(directory)
    with models.blame_model(directory / "card.toml"):  # values of other kinds than a card's
        card = _parse_card(directory, table)
    check_members(card)
    return card


def _parse_card(directory: Path, table: Mapping) -> ClassifierCard:
    where = directory / "card.toml"
    if table.get("task") != TASK:
        raise models.ModelError(
            f"{where}: not the card of a classifier: task {table.get('task')!r}, it has to be {TASK!r}"
        )
    missing = [key for key in ("name", "classes", "architecture", "input", "ensemble", "files") if not table.get(key)]
    if missing:
        raise models.ModelError(f"{where}: lacks {', '.join(missing)}")
    told = table["ensemble"]
    classes = table["classes"]
    members = told.get("members", [])
    wrong = []
    if not isinstance(classes, list) or len(set(map(str, classes))) != len(classes):
        wrong.append("classes has to be a list of names, each once")
    elif table["architecture"].get("n_classes") != len(classes):
        wrong.append(f"{len(classes)} classes, [architecture] n_classes is {table['architecture'].get('n_classes')}")
    if told.get("method") not in METHODS:
        wrong.append(f"[ensemble] method is {told.get('method')!r}: one of {', '.join(METHODS)}")
    elif not members or (told["method"] != "ensemble" and len(members) != 1):
        wrong.append(f"[ensemble] members has {len(members)} files for method {told['method']!r}")
    passes = int(told.get("passes", 16))
    if told.get("method") == "dropout" and (passes < 1 or not table["architecture"].get("dropout")):
        wrong.append(f"MC dropout of {passes} passes, dropout {table['architecture'].get('dropout', 0)}: both above 0")
    unknown = sorted(set(table["input"]) - {field.name for field in fields(WindowSettings)})
    if unknown or "size_px" not in table["input"]:
        wrong.append(f"[input]: unknown {unknown}, size_px is needed")
    if wrong:
        raise models.ModelError(f"{where}: {'; '.join(wrong)}")
    faults = {file: said for file in members if (said := _find_fault(directory, file, table["files"]))}
    return ClassifierCard(
        directory, models.digest_card(directory), str(table["name"]), tuple(classes),
        classifiers.complete_architecture(table["architecture"]), WindowSettings(**table["input"]), told["method"],
        tuple(members), tuple(file for file in members if file not in faults), faults,
        passes, int(told.get("seed", 0)),
        int(told.get("min_members", 0)) or (len(members) + 1) // 2,
    )  # fmt: skip


def check_members(card: ClassifierCard) -> None:
    """Raises models.ModelError when fewer than the card's `min_members` are fit for use."""
    least = max(1, card.min_members)
    if len(card.files) < least:
        said = "; ".join(f"{file}: {why}" for file, why in card.faults.items())
        found = f"{len(card.files)} of {card.n_members} members can be used, at least {least} are needed"
        raise models.ModelError(f"{card.directory}: {found} ({said}); copy them again or train them again")


def _find_fault(directory: Path, file: str, known: Mapping[str, str]) -> str:
    if file not in known:
        return "the card has no SHA-256 of it"
    if not (directory / file).is_file():
        return "it is not there"
    found = models.hash_file(directory / file)
    return "" if found == known[file] else f"SHA-256 is {found[:12]}, the card says {known[file][:12]}"
