"""emqa train ensemble: members trained on Dask workers, and what they know of their images written beside them."""

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask import classifiers, models, output_folders, windows
from emqa_dask.backend import to_device
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands.train_domain import Wanted, learn
from emqa_dask.pipeline.tasks.train_domain import read
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import watch
from emqa_dask.run.supervise import Call, direct
from emqa_dask.run.task import IN_PROCESS, Limits, Result, Task
from emqa_dask.settings import Settings
from emqa_dask.train import classes, classifier, member_fit
from emqa_dask.uncertainty import entropy, referral, reliability

Say = Callable[[str], None]


def train_ensemble(
    labels: str,
    out: str | Path,
    settings: Settings,
    *,
    images: str = "",
    view: windows.WindowSettings,
    members: int = 16,
    method: str = "ensemble",
    architecture: Mapping | None = None,
    schedule: member_fit.MemberSchedule | None = None,
    windows_per_image: int = 64,
    seed: int = 0,
    min_members: int | None = None,
    wanted: Wanted | None = None,
    licence: str = "not stated",
    say: Say = print,
) -> dict:
    """Train an ensemble on the images that the CSV `labels` names; the model directory `out` and its card.

    URIs are relative to the folder `images`, by default the CSV's own. Members are trained on the workers of
    run.scheduler, each by itself: an interrupted training goes on with what is finished and, within a member, from its
    last checkpoint. `wanted` says how what is in domain is learnt. `out` and its `.training` folder have to be on a
    disk that the workers see. ValueError, naming files and lines, for labels that cannot be learnt from; RuntimeError
    when fewer than `min_members` (None: all) could be trained: run it again. FileExistsError where `out` or its
    `.training` folder is there and not what a training has left.
    """
    wanted = wanted or Wanted()
    _check(members, windows_per_image, seed, min_members, wanted, architecture or {})
    check_integer("window", view.size_px, 8, 2**16)
    out = Path(os.path.abspath(out))
    output_folders.check_folder(out, classifier.locate_training(out))
    root = Path(images) if images else Path(os.path.abspath(labels)).parent
    table = classes.read_class_labels(labels, lambda uri: (root / uri).is_file())
    names = sorted(set(table["label"]))
    table = table.assign(y=np.searchsorted(names, table["label"]), group=_groups(table))
    say(f"{len(table)} images of {len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    table["split"] = _split(table, seed)
    if not out.exists() or classifier.locate_training(out).is_dir():
        pairs = ((uri, read(root / uri)[0]) for uri in table["uri"])
        stack, sources = classes.cut_windows(pairs, view, most=windows_per_image)
        classifier.prepare_training(
            out, stack, table["y"].to_numpy()[sources], table["split"].to_numpy()[sources], names,
            view=view, members=members, seed=seed, architecture=architecture, schedule=schedule, method=method,
            training={"labels": Path(labels).name, "images": len(table)}, licence=licence,
        )  # fmt: skip
        say(f"{len(stack)} windows of {view.size_px} px; finished members stay in {classifier.locate_training(out)}")
        device = settings.run.device
        if settings.run.scheduler == IN_PROCESS:
            to_device(np.zeros(1), device)
        with open_cluster(settings, (*PRELOAD, __name__), say) as client:
            if client is not None:
                say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")
            least = members if min_members is None else min_members
            _train(out, device, client, members, least, say)
            each = functools.partial(_each, client, device)
            complete = functools.partial(learn, root, table, wanted, say, each, device)
            card = classifier.join_members(out, compute_held_out_scores, min_members=least, complete=complete)
    else:
        card = models.load_card(out)
        if card.get("task") != "classification":
            raise FileExistsError(f"{out} is a model directory of another kind: give another --out")
        say(f"{out} is trained already; take another --out to train anew")
    _tell(card, out, say)
    return card


def _check(
    members: int, windows_per_image: int, seed: int, min_members: int | None, wanted: Wanted, architecture: Mapping
) -> None:
    """ValueError for a number that makes no sense, before any image is read."""
    check_integer("members", members, 1, 1000)
    check_integer("windows_per_image", windows_per_image, 1)
    check_seed("seed", seed)
    if min_members is not None:
        check_integer("min_members", min_members, 1, members)
    check_number("false_flags", wanted.false_flags, 0, 1)
    check_integer("examples", wanted.examples, 1)
    for name, most in (("depth", 1000), ("widen", 100)):
        if name in architecture:
            check_integer(name, architecture[name], 1, most)
    classifiers.build_classifier({**architecture, "n_classes": 2})


def _groups(table: pd.DataFrame) -> pd.Series:
    """What stays together when images are split: the column `group`, or the image by itself."""
    return table["group"].where(table["group"].ne(""), table["uri"]) if "group" in table else table["uri"]


def _split(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The column `split` where the labels have it; rows without one, and all without the column, are drawn."""
    drawn = classes.split_groups(table["y"], table["group"], seed=seed)
    return np.where(table["split"].ne(""), table["split"], drawn) if "split" in table else drawn


def train_member(out: str, k: int, device: str, call: Call = direct) -> dict:
    """A task: member `k` of what was laid out at `out`."""
    return classifier.train_member(Path(out), k, device=device) | {"n_images": 1}


def _train(out: Path, device: str, client, n_members: int, least: int, say: Say) -> None:
    """Members that are still to be trained, on the workers; RuntimeError where fewer than `least` are in the end."""
    tasks = [Task(f"member_{k:02d}", (str(out), k, device), 1) for k in classifier.list_unfinished(out)]
    failed = []
    for result in watch(_executed(train_member, tasks, "train", client, device), "train", len(tasks), unit="members"):
        if result.outcome == "failed":
            failed.append(f"{result.task.name}: {result.error}")
        elif result.outcome == "done":
            known = (name for name in ("validation_accuracy", "test_accuracy") if name in result.value)
            text = ", ".join(f"{name.replace('_', ' ')} {result.value[name]:.3f}" for name in known)
            say(f"{result.task.name}: {result.value['epochs']} epochs, {result.value['seconds']:.0f} s; {text}")
    n = n_members - len(classifier.list_unfinished(out))
    if n < least:
        raise RuntimeError(f"{n} members are trained, {least} are needed ({'; '.join(failed)}); run it again to go on")


def _executed(function: Callable, tasks: list[Task], stage: str, client, device: str) -> Iterator[Result]:
    resources = {"GPU": 1} if device == "cuda" else None
    return execute(
        function, tasks, stage=stage, client=client, tasks_per_worker=1, limits=Limits(), resources=resources
    )


def _each(client, device: str, function: Callable, todo: list[tuple], what: str) -> list[dict]:
    """What `function` says of each of the arguments `todo`, in their order; RuntimeError where it fails for one."""
    tasks = [Task(f"{k:06d}", args, 1) for k, args in enumerate(todo)]
    found = {}
    for result in watch(_executed(function, tasks, "train", client, device), what, len(tasks), unit="batches"):
        if result.outcome == "failed":
            raise RuntimeError(f"{what}: {result.error}")
        if result.outcome == "done":
            found[result.task.name] = result.value
    return [found[task.name] for task in tasks]


def compute_held_out_scores(p: np.ndarray, y: np.ndarray) -> dict:
    """What a card says of held-out windows: p (members, n, classes) and classes y (n,)."""
    mean = p.mean(axis=0, dtype=float)
    is_wrong = mean.argmax(axis=1) != y
    doubt = entropy.predictive_entropy(p)
    diagram = reliability.reliability_table(mean, y)
    curve = referral.risk_coverage(doubt, is_wrong)
    found = {
        "n": len(y),
        "accuracy": round(float(1 - is_wrong.mean()), 4),
        "nll": round(reliability.negative_log_likelihood(mean, y), 4),
        "ece": round(reliability.expected_calibration_error(mean, y), 4),
        "ece_equal_mass": round(reliability.expected_calibration_error(mean, y, binning="mass"), 4),
        "risk_coverage_area": round(curve.area, 5),
        "error_at_90_percent_coverage": round(float(curve.risk[int(np.ceil(0.9 * len(y))) - 1]), 4),
        "temperature": round(reliability.fit_temperature(mean, y), 4),
    }
    if 0 < is_wrong.sum() < len(y):
        found["auroc_wrong_by_entropy"] = round(referral.auroc(doubt, is_wrong), 4)
    return found | {f"reliability_{name}": diagram[name].round(4).tolist() for name in ("confidence", "accuracy", "n")}


def _tell(card: Mapping, out: Path, say: Say) -> None:
    for name, of in card.get("measured", {}).items():
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in of.items() if not isinstance(value, list))
        say(f"{name}: {told}")
    say(f"model directory {out}: emqa triage SRC --classifier {out}")
