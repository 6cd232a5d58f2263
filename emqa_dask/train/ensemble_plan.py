"""The plan of an ensemble's training: checked options and data, written beside the model directory."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from emqa_dask import classifiers, models, output_folders
from emqa_dask.train.class_labels import SPLITS
from emqa_dask.train.member_fit import LabelledWindows
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

PLAN = "plan.json"
WINDOWS = "windows.npy"
CLASSES = "classes.npy"


@dataclass(frozen=True)
class EnsembleOptions:
    """How an ensemble is trained."""

    window_settings: WindowSettings
    n_members: int = 16
    method: str = "ensemble"  # softmax and dropout have one member
    n_passes: int = 16  # of MC dropout
    architecture: Mapping[str, Any] = field(default_factory=dict)  # changes of classifiers.DEFAULTS
    schedule: MemberSchedule = field(default_factory=MemberSchedule)
    seed: int = 0  # of the first member; the following members have the following seeds
    licence: str = "not stated"
    card_entries: Mapping[str, Any] = field(default_factory=dict)  # for the card's [training]

    def complete_architecture(self, n_classes: int) -> dict:
        """The architecture with all defaults; ValueError for one that does not fit the method."""
        if self.n_members < 1 or (self.method != "ensemble" and self.n_members != 1):
            raise ValueError(f"{self.n_members} members for method {self.method!r}: softmax and dropout have one")
        architecture = classifiers.complete_architecture({**self.architecture, "n_classes": n_classes})
        if architecture["backbone"] == classifiers.PICTURE_BACKBONE:
            raise ValueError(
                f"backbone {classifiers.PICTURE_BACKBONE!r} is of bundled ensembles alone: take another one"
            )
        if self.method == "dropout" and not architecture["dropout"]:
            raise ValueError("method 'dropout' needs [architecture] dropout above 0; the published one is 0.3")
        return architecture


class TrainingSet(NamedTuple):
    """Windows with their classes and splits, and the names of the classes."""

    windows: NDArray[np.float32]  # (n, size, size), in [0, 1]
    classes: NDArray[np.int64]  # (n,): places in `names`
    split: NDArray  # (n,): train, validation or test
    names: tuple[str, ...]

    @classmethod
    def from_arrays(cls, windows: ArrayLike, classes: ArrayLike, split: ArrayLike, names: Sequence[str]):
        """A training set of arrays of any suitable dtype."""
        y = np.asarray(classes, np.int64)
        return cls(np.asarray(windows, np.float32), y, np.asarray(split).astype(str), tuple(names))

    def check(self, size_px: int) -> None:
        """Raises ValueError for arrays that do not fit and for a class without a training row."""
        windows = self.windows
        classes = self.classes
        split = self.split
        names = self.names
        is_square = windows.ndim == 3 and windows.shape[1:] == (size_px, size_px)
        if not is_square or classes.shape != split.shape or len(classes) != len(windows):
            shapes = f"windows {windows.shape}, classes {classes.shape}, split {split.shape}"
            raise ValueError(f"{shapes}: windows are (n, {size_px}, {size_px}), the others (n,)")
        training_classes = set(classes[split == "train"].tolist())
        if not set(split) <= set(SPLITS) or training_classes != set(range(len(names))) or len(names) < 2:
            present = [name for k, name in enumerate(names) if k in training_classes]
            raise ValueError(f"of the classes {list(names)} the training rows have {present}: all, and two, are needed")

    def sort_by_split(self) -> "TrainingSet":
        """The same rows, in the order of `SPLITS`."""
        order = np.concatenate([np.flatnonzero(self.split == name) for name in SPLITS])
        return TrainingSet(self.windows[order], self.classes[order], self.split[order], self.names)


def prepare_training(out: Path, training_set: TrainingSet, options: EnsembleOptions) -> Path:
    """The folder `<out>.training` with the plan and the data; one with the same contents is kept.

    Raises ValueError for data that do not fit together, and for a folder with other contents; FileExistsError where
    `out` or the folder exists and is not from a training.
    """
    out = Path(out)
    training_set.check(options.window_settings.size_px)
    architecture = options.complete_architecture(len(training_set.names))
    folder = locate_training(out)
    output_folders.check_folder(out, folder)
    output_folders.restore_interrupted(folder)
    sorted_set = training_set.sort_by_split()
    plan = _make_plan(out.name, sorted_set, options, architecture)
    if (folder / PLAN).is_file():
        _check_same_plan(folder, plan)
        return folder
    with output_folders.write_folder(folder) as fresh:
        np.save(fresh / WINDOWS, sorted_set.windows)
        np.save(fresh / CLASSES, sorted_set.classes)
        (fresh / PLAN).write_text(json.dumps(plan, indent=1), encoding="utf-8")
        models.write_model_card(fresh, {"task": "training of an ensemble"})
    return folder


def _make_plan(name: str, training_set: TrainingSet, options: EnsembleOptions, architecture: Mapping) -> dict:
    """The plan as it is read back from JSON."""
    plan = {
        "name": name,
        "classes": list(training_set.names),
        "architecture": dict(architecture),
        "input": asdict(options.window_settings),
        "schedule": asdict(options.schedule),
        "method": options.method,
        "seeds": [options.seed + k for k in range(options.n_members)],
        "passes": options.n_passes,
        "n": {split: int((training_set.split == split).sum()) for split in SPLITS},
        "data": digest_arrays(training_set.windows, training_set.classes),
        "training": dict(options.card_entries),
        "licence": options.licence,
    }
    return json.loads(json.dumps(plan))


def _check_same_plan(folder: Path, plan: Mapping) -> None:
    """Raises ValueError, naming the entries, where the folder has another plan."""
    stored_plan = read_plan(folder)
    changed_keys = [key for key in plan if stored_plan.get(key) != plan[key]]
    if changed_keys:
        keys = ", ".join(changed_keys)
        raise ValueError(f"{folder}: a training with another {keys} was begun here; remove it or take another --out")


def locate_training(out: str | Path) -> Path:
    """The folder beside the model directory `out` in which its members are trained."""
    return Path(f"{out}.training")


def locate_member(folder: Path, k: int) -> Path:
    """The folder of the finished member `k`."""
    return folder / f"member_{k:02d}"


def read_plan(folder: Path) -> dict:
    """The plan in `folder`; FileNotFoundError where nothing was prepared."""
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"{folder}: no training was prepared here")
    return json.loads(models.check_file(folder, PLAN, models.read_model_card(folder)).read_text(encoding="utf-8"))


def load_splits(folder: Path, plan: Mapping) -> dict[str, LabelledWindows]:
    """Windows (memory-mapped) and classes of each split."""
    windows = np.load(folder / WINDOWS, mmap_mode="r")
    classes = np.load(folder / CLASSES)
    splits = {}
    start = 0
    for name in SPLITS:
        end = start + plan["n"][name]
        splits[name] = LabelledWindows(windows[start:end], classes[start:end])
        start = end
    return splits


def digest_arrays(windows: NDArray, classes: NDArray) -> str:
    """SHA-256 over the bytes of windows and classes."""
    digest = hashlib.sha256(np.ascontiguousarray(windows).data)
    digest.update(np.ascontiguousarray(classes).data)
    return digest.hexdigest()
