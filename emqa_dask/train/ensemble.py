"""Trains the members of a classifier ensemble, each by itself, and joins them to a model directory.

`ensemble_plan.prepare_training` writes the plan and the data, `train_member` trains one member on any machine that sees
the folder, `join_members` writes the model directory. Only files connect the three.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks, output_folders
from emqa_dask.train import member_fit
from emqa_dask.train.checkpoints import WEIGHTS, locate_checkpoint
from emqa_dask.train.class_labels import SPLITS
from emqa_dask.train.ensemble_plan import load_splits, locate_member, locate_training, read_plan
from emqa_dask.train.schedules import MemberSchedule

if TYPE_CHECKING:
    import torch

RECORD = "record.json"
HELD_OUT = "held_out.safetensors"
HELD_OUT_SPLITS = SPLITS[1:]

Measure = Callable[[NDArray, NDArray], Mapping]  # (probabilities, classes) -> entries of the card
ExtraFileWriter = Callable[[Path, dict], None]  # (folder, card): writes more files, adds to the card


def train_member(
    out: Path, k: int, *, device: str = "cpu", say: Callable[[str], None] = print, checkpoint_minutes: float = 2.0
) -> dict:
    """The record of member `k`, which is trained or resumed; a finished member is not trained again.

    The record has seed, epochs, best_epoch, training loss, loss and accuracy on validation and test windows, and
    seconds. Raises FileNotFoundError where nothing was prepared, FloatingPointError where the loss is not finite.
    """
    folder = locate_training(out)
    plan = read_plan(folder)
    member = locate_member(folder, k)
    if (member / RECORD).is_file():
        return json.loads((member / RECORD).read_text(encoding="utf-8"))
    output_folders.check_folder(member)
    splits = load_splits(folder, plan)
    net, record = member_fit.fit_member(
        plan["architecture"],
        splits["train"],
        splits["validation"],
        locate_checkpoint(member),
        schedule=MemberSchedule(**plan["schedule"]),
        seed=plan["seeds"][k],
        device=device,
        checkpoint_minutes=checkpoint_minutes,
        say=lambda line: say(f"member {k}: {line}"),
    )
    with output_folders.write_folder(member) as fresh:  # once it has its name the member is finished
        for name in HELD_OUT_SPLITS:
            if plan["n"][name]:
                p = _predict_passes(net, splits[name].windows, plan, plan["seeds"][k], device)
                np.save(fresh / f"{name}.npy", p)
                record |= _score_split(name, p.mean(axis=0), splits[name].classes)
        networks.save_weights(net, fresh / WEIGHTS)
        (fresh / RECORD).write_text(json.dumps(record), encoding="utf-8")
        models.write_model_card(fresh, {"task": "member of an ensemble"})
    output_folders.remove_folder(locate_checkpoint(member))
    return record


def predict_member(out: Path, k: int, windows: NDArray[np.float32], device: str = "cpu") -> NDArray[np.float32]:
    """Probabilities (passes, n, classes) of the finished member `k` for windows (n, size, size) in [0, 1]."""
    folder = locate_training(out)
    plan = read_plan(folder)
    member = locate_member(folder, k)
    models.load_model_card(member)
    net = classifiers.build_classifier(plan["architecture"])
    networks.load_weights(net, member / WEIGHTS)
    return _predict_passes(net.to(device).eval(), windows, plan, plan["seeds"][k], device)


def load_held_out(out: Path, k: int, split: str) -> NDArray[np.float32]:
    """Probabilities (passes, n, classes) of the finished member `k` for the windows of a held-out split."""
    return np.load(locate_member(locate_training(out), k) / f"{split}.npy")


def _predict_passes(
    net: "torch.nn.Module", windows: NDArray, plan: Mapping, seed: int, device: str
) -> NDArray[np.float32]:
    """Probabilities (passes, n, classes); without MC dropout there is one pass."""
    if plan["method"] != "dropout":
        classifiers.set_dropout_pass(net, None)
        return member_fit.predict_softmax(net, windows, device)[None]
    passes = []
    for number in range(plan["passes"]):
        classifiers.set_dropout_pass(net, seed, number)
        passes.append(member_fit.predict_softmax(net, windows, device))
    return np.stack(passes)


def _score_split(name: str, p: NDArray, classes: NDArray) -> dict[str, float]:
    """Accuracy and mean negative log likelihood (nats) of a split, rounded, as entries of the record."""
    p_true = p[np.arange(len(p)), classes]
    nll = float(-np.log(np.maximum(p_true, member_fit.MIN_PROBABILITY)).mean())
    accuracy = float((p.argmax(axis=1) == classes).mean())
    return {f"{name}_accuracy": round(accuracy, 4), f"{name}_nll": round(nll, 4)}


def list_unfinished(out: Path) -> list[int]:
    """Numbers of the prepared members that `train_member` has not finished."""
    folder = locate_training(out)
    return [k for k in range(len(read_plan(folder)["seeds"])) if not (locate_member(folder, k) / RECORD).is_file()]


def count_finished(out: Path) -> int:
    """Number of the finished members."""
    return len(read_plan(locate_training(out))["seeds"]) - len(list_unfinished(out))


def join_members(
    out: Path, measure: Measure, *, min_members: int | None = None, write_extra_files: ExtraFileWriter | None = None
) -> dict:
    """The card of the model directory `out`, which is written from the finished members; `<out>.training` is removed.

    `measure(p, y)` takes probabilities (members, n, classes) and classes (n,) of held-out windows and returns the
    card's [measured.validation] and [measured.test]. `write_extra_files(folder, card)` may add files and entries before
    the card is written. Probabilities and classes of held-out windows are stored in `held_out.safetensors`; the passes
    of MC dropout count as members there. Raises ValueError when fewer than `min_members` (None: all) are finished.
    """
    from safetensors.numpy import save_file

    out = Path(out)
    folder = locate_training(out)
    plan = read_plan(folder)
    finished = _list_finished(out, plan, min_members)
    for k in finished:
        models.load_model_card(locate_member(folder, k))
    held_out = _load_held_out(folder, plan, finished)
    figures = {
        name: dict(measure(held_out[f"{name}.probabilities"], held_out[f"{name}.classes"]))
        for name in HELD_OUT_SPLITS
        if f"{name}.classes" in held_out
    }
    files = {k: f"{locate_member(folder, k).name}.safetensors" for k in finished}
    model_card = _make_card(plan, list(files.values()), _read_records(folder, finished), figures)
    with output_folders.write_folder(out) as fresh:
        for k, file in files.items():
            shutil.copyfile(locate_member(folder, k) / WEIGHTS, fresh / file)
        if held_out:
            save_file(held_out, str(fresh / HELD_OUT))
        if write_extra_files is not None:
            write_extra_files(fresh, model_card)
        models.write_model_card(fresh, model_card)
    output_folders.remove_folder(folder)
    return model_card


def _list_finished(out: Path, plan: Mapping, min_members: int | None) -> list[int]:
    """Numbers of the finished members; ValueError when they are fewer than `min_members`."""
    n_members = len(plan["seeds"])
    unfinished = list_unfinished(out)
    if n_members - len(unfinished) < (n_members if min_members is None else max(1, min_members)):
        folder = locate_training(out)
        raise ValueError(f"{folder}: members {unfinished} of {n_members} are not finished; train them first")
    return [k for k in range(n_members) if k not in unfinished]


def _load_held_out(folder: Path, plan: Mapping, finished: Sequence[int]) -> dict[str, NDArray]:
    """`<split>.probabilities` (members, n, classes) and `<split>.classes` (n,) of the splits that have windows."""
    splits = load_splits(folder, plan)
    arrays = {}
    for name in HELD_OUT_SPLITS:
        if plan["n"][name]:
            p = [np.load(locate_member(folder, k) / f"{name}.npy") for k in finished]
            arrays[f"{name}.probabilities"] = np.concatenate(p)
            arrays[f"{name}.classes"] = splits[name].classes
    return arrays


def _read_records(folder: Path, finished: Sequence[int]) -> dict[str, list]:
    """The members' records as columns."""
    records = [json.loads((locate_member(folder, k) / RECORD).read_text(encoding="utf-8")) for k in finished]
    return {key: [record[key] for record in records] for key in records[0]}


def _make_card(plan: Mapping, files: list[str], records: Mapping, figures: Mapping) -> dict:
    """The card of the model directory."""
    n_windows = {f"{split}_windows": n for split, n in plan["n"].items()}
    return {
        "name": plan["name"],
        "task": "classification",
        "classes": plan["classes"],
        "licence": plan["licence"],
        "architecture": plan["architecture"],
        "input": plan["input"],
        "ensemble": {
            "method": plan["method"],
            "members": files,
            "min_members": max(1, (len(files) + 1) // 2),
            "passes": plan["passes"],
            "seed": plan["seeds"][0],
        },
        "training": {**plan["training"], **n_windows, **plan["schedule"]},
        "members": dict(records),
        "measured": dict(figures),
    }
