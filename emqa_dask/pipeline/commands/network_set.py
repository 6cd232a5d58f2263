"""Networks of one labelled set that are compared: other methods, other shares of the labels."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask.pipeline.commands.training_workers import Workers
from emqa_dask.pipeline.tasks.train_members import locate_probabilities, train_member_until
from emqa_dask.run.progress import format_duration
from emqa_dask.run.task import Task
from emqa_dask.train import ensemble, label_shares
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, locate_training, prepare_training
from emqa_dask.train.schedules import MemberSchedule

DROPOUT = 0.3  # of Zhang et al.
Say = Callable[[str], None]


class NetworkPlan(NamedTuple):
    """Networks that are trained alike; "softmax" is the first member of an "ensemble"."""

    out: Path  # of the model directory; the training is beside it
    method: str  # ensemble or dropout
    share: float  # of the labels for training
    n_members: int

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.method}, {100 * self.share:.0f} % of the labels"


class LabelledSet(NamedTuple):
    """Windows of labelled images."""

    table: pd.DataFrame  # a row for each image: uri, label, y, group, split
    training_set: TrainingSet
    sources: NDArray[np.int64]  # (n,): row of `table` of each window

    def rank_windows(self, seed: int) -> NDArray[np.float64]:
        """The smallest share of the training images at which each window (n,) is used; inf for held-out ones."""
        is_training = self.table["split"].eq("train").to_numpy()
        rank = np.full(len(self.table), np.inf)
        rows = self.table[is_training]
        rank[is_training] = label_shares.rank_rows(rows["y"], rows["group"], seed)
        return rank[self.sources]

    def list_sources(self, split: str) -> NDArray[np.int64]:
        """Row of `table` (n,) of each window of a split, in the order of its probabilities."""
        return self.sources[self.training_set.split == split]


def prepare_networks(plans: Sequence[NetworkPlan], labelled: LabelledSet, options: EnsembleOptions) -> dict[str, int]:
    """Writes the trainings of `plans`; the number of images for training, by name of the model directory.

    Fewer labels are seen for more epochs, in proportion to 1 / sqrt(share): between equal epochs, as published, and
    equal steps, so that short trainings on few labels take enough steps.
    """
    rank = labelled.rank_windows(options.seed)
    is_training = labelled.training_set.split == "train"
    n_images = {}
    for plan in plans:
        selection = label_shares.select_share(rank[is_training], labelled.training_set.classes[is_training], plan.share)
        used = ~is_training
        used[is_training] = selection
        n_images[plan.out.name] = len(np.unique(labelled.sources[is_training][selection]))
        whole = labelled.training_set
        part = TrainingSet(whole.windows[used], whole.classes[used], whole.split[used], whole.names)
        prepare_training(plan.out, part, _make_options(plan, options))
    return n_images


def _make_options(plan: NetworkPlan, options: EnsembleOptions) -> EnsembleOptions:
    is_dropout = plan.method == "dropout"
    architecture = {**options.architecture, "dropout": DROPOUT if is_dropout else 0.0}
    return replace(
        options,
        method=plan.method,
        n_members=plan.n_members,
        architecture=architecture if plan.method != options.method else options.architecture,
        schedule=stretch_schedule(options.schedule, plan.share),
    )


def stretch_schedule(schedule: MemberSchedule, share: float) -> MemberSchedule:
    """The schedule for a share of the labels: epochs, halving and patience over sqrt(share)."""
    changes = {name: round(getattr(schedule, name) / np.sqrt(share)) for name in ("epochs", "halve_every", "patience")}
    return replace(schedule, **changes)


def order_members(plans: Sequence[NetworkPlan], n_first: int) -> list[tuple[NetworkPlan, int]]:
    """(plan, member) in the order of training: whole labels with `n_first` members, shares, then further members."""
    members = [(plan, k) for plan in plans for k in range(plan.n_members)]
    return sorted(
        members, key=lambda turn: (turn[1] >= n_first, turn[0].share < 1, turn[1] if turn[1] >= n_first else 0)
    )


def train_networks(
    plans: Sequence[NetworkPlan],
    workers: Workers,
    say: Say,
    *,
    folder: Path,
    extra_windows: Sequence[str] = (),
    n_first: int = 3,
    end_s: float = np.inf,
) -> list[str]:
    """Trains what is unfinished until `end_s` (time.time()); why members failed.

    The networks are also asked about the windows `extra_windows` in `folder`.
    """
    turns = [turn for turn in order_members(plans, n_first) if _is_unfinished(*turn, folder, extra_windows)]
    tasks = [
        Task(f"{n:04d}", (str(plan.out), k, workers.device, end_s, str(folder), list(extra_windows)), 1)
        for n, (plan, k) in enumerate(turns)
    ]
    say(f"{len(tasks)} of {sum(plan.n_members for plan in plans)} networks are left, {workers.count} at once")
    started = time.monotonic()
    failures = []
    n = n_left = 0
    for result in workers.execute(train_member_until, tasks):
        if result.outcome == "lost":
            continue
        n += 1
        plan, k = turns[int(result.task.name)]
        n_left += bool(result.value.get("is_left"))
        if result.outcome == "failed":
            failures.append(f"{plan.title}, member {k}: {result.error}")
            say(failures[-1])
        elif not result.value["is_left"]:
            left_s = (time.monotonic() - started) / n * (len(tasks) - n)
            say(
                f"{plan.title}, member {k}: {result.value['epochs']} epochs, {result.value['seconds']:.0f} s; "
                f"{n} of {len(tasks)} networks, about {format_duration(left_s)} left"
            )
    if n_left:
        say(f"{n_left} networks are left, since the time is over; run it again to train them")
    return failures


def _is_unfinished(plan: NetworkPlan, k: int, folder: Path, extra_windows: Sequence[str]) -> bool:
    files = [locate_probabilities(folder, plan.out, k, name) for name in extra_windows]
    return k in ensemble.list_unfinished(plan.out) or not all(file.is_file() for file in files)


def list_finished(plan: NetworkPlan, folder: Path | None = None, extra_windows: Sequence[str] = ()) -> list[int]:
    """Numbers of the finished members; with `folder` those that were asked about the windows `extra_windows`, too."""
    if not locate_training(plan.out).is_dir():
        return []
    unfinished = ensemble.list_unfinished(plan.out)
    numbers = [k for k in range(plan.n_members) if k not in unfinished]
    return [k for k in numbers if folder is None or not _is_unfinished(plan, k, folder, extra_windows)]


def load_held_out(plan: NetworkPlan, split: str, labelled: LabelledSet) -> NDArray[np.float64]:
    """Probabilities (members, images, classes) of a split's images, in the order of the table; passes are members."""
    parts = [ensemble.load_held_out(plan.out, k, split) for k in list_finished(plan)]
    return average_windows(np.concatenate(parts), labelled.list_sources(split))


def load_extra(plan: NetworkPlan, folder: Path, name: str, sources: NDArray) -> NDArray[np.float64]:
    """Probabilities (members, images, classes) of the images of extra windows whose images are `sources` (n,)."""
    parts = [np.load(locate_probabilities(folder, plan.out, k, name)) for k in list_finished(plan)]
    return average_windows(np.concatenate(parts), sources)


def average_windows(p: NDArray, sources: NDArray) -> NDArray[np.float64]:
    """Mean over each image's windows: p (members, windows, classes) to (members, images, classes), by `sources`."""
    _, positions, counts = np.unique(sources, return_inverse=True, return_counts=True)
    sums = np.zeros((len(p), len(counts), p.shape[2]))
    np.add.at(sums, np.s_[:, positions], p)
    return sums / counts[:, None]


def write_windows(folder: Path, name: str, windows: NDArray[np.float32]) -> str:
    """The name of a file of windows in `folder`: `name` with a digest, so that other windows have another name."""
    digest = hashlib.sha256(np.ascontiguousarray(windows).data).hexdigest()[:8]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{digest}.npy"
    if not path.is_file():
        fresh = folder / f"{path.name}.partial"
        with fresh.open("wb") as stream:
            np.save(stream, windows)
        fresh.rename(path)
    return path.stem
