"""The lots' study's networks: ensemble, MC dropout and learning curve, trained in turn until a time is up."""

import argparse
import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.studies import lot_images
from emqa_dask.train import ensemble
from emqa_dask.train.ensemble_plan import EnsembleOptions, TrainingSet, prepare_training
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.uncertainty.held_out_scores import compute_held_out_scores

DROPOUT = 0.3
PASSES = 16
SEEDS_APART = 1000  # between the trainings' seeds of two draws of data


class Plan(NamedTuple):
    """One model directory."""

    seed: int  # of the data; the members' seeds follow from it
    method: str  # "ensemble" (its first member alone is the softmax network) or "dropout"
    share: float  # of every lot's training fields
    members: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"seed_{self.seed}/{self.method}" + (f"_{self.share:g}" if self.share < 1 else "")


def classes(given: argparse.Namespace) -> list[str]:
    """Names of the lots, in their order."""
    return [f"lot {k:02d}" for k in range(given.lots)]


def plans(given: argparse.Namespace) -> list[Plan]:
    """All that the options ask for; only the first seed has a learning curve."""
    results = []
    for seed in given.seeds:
        results += [Plan(seed, "dropout", 1.0, 1), Plan(seed, "ensemble", 1.0, given.lot_members)]
        for share in given.shares if seed == given.seeds[0] else ():
            results += [Plan(seed, "dropout", share, 1), Plan(seed, "ensemble", share, given.curve_members)]
    return results


def figures(p: NDArray, y: NDArray) -> dict[str, float]:
    """Scores of probabilities p (members, n, classes), as numbers; y (n,) are the classes."""
    return {key: value for key, value in compute_held_out_scores(p, y).items() if not isinstance(value, list)}


@contextmanager
def processes(n: int) -> Iterator[Callable]:
    """A map() over `n` processes, in the order of its arguments; the plain one for n = 1."""
    if n == 1:
        yield map
        return
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        yield pool.map


def train(given: argparse.Namespace, each: Callable = map) -> None:
    """Trains all plans, or goes on with them, until `given.minutes` are over; then joins what there is.

    In turn, so that whatever the time allows is a study: of each seed dropout and `curve_members` members, then the
    learning curve, then the other members one by one. An ensemble is of the members that are finished; the others are
    left to a later run. `each` is map, or the one of a pool: then as many members train at once.
    """
    end = np.inf if given.minutes is None else time.monotonic() + 60 * given.minutes
    wanted = [plan for plan in plans(given) if not _is_whole(given.out / "lots" / plan.name)]
    for plan in wanted:
        _prepare(plan, given, each)
    turns = [(plan, k) for plan in wanted for k in ensemble.list_unfinished(given.out / "lots" / plan.name)]
    turns.sort(key=lambda turn: rank(turn[0], turn[1], given.curve_members))
    outs = [given.out / "lots" / plan.name for plan, _ in turns]
    members = [k for _, k in turns]
    done = each(_trained, outs, members, [given.device] * len(turns), [end] * len(turns))
    begun = {plan for (plan, _), is_done in zip(turns, done) if is_done}
    for plan in wanted:
        out = given.out / "lots" / plan.name
        is_new = plan in begun or not (out / "card.toml").is_file()
        if is_new and len(ensemble.list_unfinished(out)) < plan.members:
            _join(out)


def _trained(out: Path, k: int, device: str, end: float) -> bool:
    """Trains member `k`, unless it is `end` already on the clock that all processes share."""
    if time.monotonic() >= end:
        return False
    record = ensemble.train_member(out, k, device=device, say=lambda line: None)
    print(f"{out.parent.name}/{out.name}, member {k}: {record}", flush=True)
    return True


def _is_whole(out: Path) -> bool:
    return (out / "card.toml").is_file() and not Path(f"{out}.training").is_dir()


def _join(out: Path) -> None:
    """Writes the model directory of the finished members; unfinished ones can still be trained afterwards."""
    folder = Path(f"{out}.training")
    kept = Path(f"{out}.kept")
    if ensemble.list_unfinished(out):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(folder, kept)
    ensemble.join_members(out, figures, min_members=1)
    if kept.is_dir():
        kept.rename(folder)


def rank(plan: Plan, k: int, first: int) -> tuple:
    """Where member `k` comes in turn: the first `first` ones, the learning curve, then one by one."""
    return k >= first, plan.share < 1, max(0, k - first + 1)


def _prepare(plan: Plan, given: argparse.Namespace, each: Callable) -> None:
    """Lays out the plan's training. Less data is seen for more epochs, in proportion to 1 / sqrt(share): between the
    paper's equal epochs, too few steps for trainings as short as these, and equal steps."""
    own, split = lot_images.own(plan.seed, given.lots, tuple(given.fields), each)
    used = (split != "train") | of_share(own, split, plan.share)
    epochs = round(given.lot_epochs / np.sqrt(plan.share))
    is_dropout = plan.method == "dropout"
    dropout = DROPOUT if is_dropout else 0.0
    options = EnsembleOptions(
        lot_images.VIEW,
        n_members=plan.members,
        method=plan.method,
        n_passes=PASSES,
        architecture={"depth": given.lot_depth, "widen": given.lot_widen, "dropout": dropout},
        schedule=MemberSchedule(
            epochs=epochs,
            batch=given.batch,
            learning_rate=given.learning_rate,
            weight_decay=given.weight_decay,
            halve_every=max(1, round(epochs / 4)),
            precision=given.precision,
        ),
        seed=SEEDS_APART * plan.seed + (SEEDS_APART // 2 if is_dropout else 0),
        card_entries={"images": "synthetic lots", "draw": plan.seed, "share": plan.share},
    )
    training_set = TrainingSet.from_arrays(own.windows[used], own.lot[used], split[used], classes(given))
    prepare_training(given.out / "lots" / plan.name, training_set, options)


def of_share(own: lot_images.Fields, split: NDArray, share: float) -> NDArray[np.bool_]:
    """Rows (n,) of the first `share` of every lot's training fields, one field at least; shares are nested."""
    results = np.zeros(len(split), bool)
    for lot in np.unique(own.lot):
        fields = np.unique(own.source[(own.lot == lot) & (split == "train")])
        results |= np.isin(own.source, fields[: max(1, round(share * len(fields)))])
    return results & (split == "train")
