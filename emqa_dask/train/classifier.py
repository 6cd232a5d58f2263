"""Trains the members of a classifier ensemble, each by itself, resumable, and joins them to a model directory.

prepare() lays out the work beside the model directory, train_member() trains one member (anywhere that sees the
folder), finish() writes the card. Nothing but files connects them.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks, output_folders, windows
from emqa_dask.train import member_fit
from emqa_dask.train.checkpoints import locate_checkpoint
from emqa_dask.train.classes import SPLITS

PLAN = "plan.json"
RECORD = "record.json"
WEIGHTS = "weights.safetensors"


def prepare_training(
    out: Path,
    stack: NDArray[np.float32],
    y: NDArray,
    split: NDArray,
    classes: Sequence[str],
    *,
    view: windows.WindowSettings,
    members: int = 16,
    seed: int = 0,
    architecture: Mapping | None = None,
    schedule: member_fit.MemberSchedule | None = None,
    method: str = "ensemble",
    passes: int = 16,
    training: Mapping | None = None,
    licence: str = "not stated",
) -> Path:
    """Writes what members train on to `<out>.training`, or finds it there from before; returns that folder.

    `stack` (n, size, size) float32 in [0, 1] are windows of the view, `y` (n,) classes' places, `split` (n,) train,
    validation or test. `method` is softmax, dropout (one member each) or ensemble. `training` goes to the card. Raises
    ValueError for arrays that do not fit or have no class twice, and for a folder from before with other contents;
    FileExistsError where `out` or that folder is there and not ours.
    """
    schedule = schedule or member_fit.MemberSchedule()
    stack = np.asarray(stack, np.float32)
    y = np.asarray(y, np.int64)
    split = np.asarray(split).astype(str)
    size = view.size_px
    if stack.ndim != 3 or stack.shape[1:] != (size, size) or y.shape != split.shape or len(y) != len(stack):
        said = f"windows {stack.shape}, classes {y.shape}, split {split.shape}"
        raise ValueError(f"{said}: windows are (n, {size}, {size}), the others (n,)")
    is_training = split == "train"
    if not set(split) <= set(SPLITS) or set(y[is_training]) != set(range(len(classes))) or len(classes) < 2:
        seen = [classes[k] for k in sorted(set(y[is_training]) & set(range(len(classes))))]
        raise ValueError(f"of the classes {list(classes)} the training rows have {seen}: all, and two, are needed")
    if members < 1 or (method != "ensemble" and members != 1):
        raise ValueError(f"{members} members for method {method!r}: softmax and dropout have one")
    full = classifiers.complete_architecture({**(architecture or {}), "n_classes": len(classes)})
    if method == "dropout" and not full["dropout"]:
        raise ValueError("method 'dropout' needs [architecture] dropout above 0; the published one is 0.3")
    out = Path(out)
    folder = locate_training(out)
    output_folders.check_folder(out, folder)
    output_folders.sweep(folder)
    order = np.concatenate([np.flatnonzero(split == name) for name in SPLITS])
    plan = {
        "name": out.name,
        "classes": list(classes),
        "architecture": full,
        "input": vars(view).copy(),
        "schedule": vars(schedule).copy(),
        "method": method,
        "seeds": [seed + k for k in range(members)],
        "passes": passes,
        "n": {name: int((split == name).sum()) for name in SPLITS},
        "data": member_fit.digest_arrays(stack[order], y[order]),
        "training": dict(training or {}),
        "licence": licence,
    }
    plan = json.loads(json.dumps(plan))
    if (folder / PLAN).is_file():
        found = _plan(folder)
        other = [key for key in plan if found.get(key) != plan[key]]
        if other:
            raise ValueError(
                f"{folder}: a training with another {', '.join(other)} was begun here; remove it or take another --out"
            )
        return folder
    with output_folders.write_folder(folder) as fresh:
        np.save(fresh / "windows.npy", stack[order])
        np.save(fresh / "classes.npy", y[order])
        (fresh / PLAN).write_text(json.dumps(plan, indent=1), encoding="utf-8")
        models.write_card(fresh, {"task": "training of an ensemble"})
    return folder


def train_member(
    out: Path, k: int, *, device: str = "cpu", say: Callable[[str], None] = print, checkpoint_minutes: float = 2.0
) -> dict:
    """Trains member `k` of what `prepare` laid out, or goes on with it; returns its record.

    A member that is finished is not trained again. The record: seed, epochs, best_epoch, validation and test loss and
    accuracy, seconds. Raises FileNotFoundError where nothing was prepared, FloatingPointError where the loss is no
    number.
    """
    folder = locate_training(out)
    plan = _plan(folder)
    member = _member(folder, k)
    if (member / RECORD).is_file():
        return json.loads((member / RECORD).read_text(encoding="utf-8"))
    output_folders.check_folder(member)
    stack, y = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("windows", "classes"))
    parts = {}
    start = 0
    for name in SPLITS:
        parts[name] = (stack[start : start + plan["n"][name]], np.array(y[start : start + plan["n"][name]]))
        start += plan["n"][name]
    net, record = member_fit.fit_member(
        plan["architecture"],
        *parts["train"],
        *parts["validation"],
        locate_checkpoint(member),
        schedule=member_fit.MemberSchedule(**plan["schedule"]),
        seed=plan["seeds"][k],
        device=device,
        checkpoint_minutes=checkpoint_minutes,
        say=lambda line: say(f"member {k}: {line}"),
    )
    with output_folders.write_folder(member) as fresh:  # once it has its name the member is finished
        for name in ("validation", "test"):
            if plan["n"][name]:
                passes = range(plan["passes"]) if plan["method"] == "dropout" else [None]
                said = []
                for number in passes:
                    classifiers.set_dropout_pass(net, None if number is None else plan["seeds"][k], number or 0)
                    said.append(member_fit.predict_softmax(net, parts[name][0], device))
                np.save(fresh / f"{name}.npy", np.stack(said))
                p = np.mean(said, axis=0)
                own = p[np.arange(len(p)), parts[name][1]]
                record |= {
                    f"{name}_accuracy": round(float((p.argmax(axis=1) == parts[name][1]).mean()), 4),
                    f"{name}_nll": round(float(-np.log(np.maximum(own, 1e-12)).mean()), 4),
                }
        networks.save_weights(net, fresh / WEIGHTS)
        (fresh / RECORD).write_text(json.dumps(record), encoding="utf-8")
        models.write_card(fresh, {"task": "member of an ensemble"})
    output_folders.remove_folder(locate_checkpoint(member))
    return record


def list_unfinished(out: Path) -> list[int]:
    """Members of what `prepare` laid out that `train_member` has still to finish."""
    folder = locate_training(out)
    return [k for k in range(len(_plan(folder)["seeds"])) if not (_member(folder, k) / RECORD).is_file()]


def join_members(
    out: Path,
    measure: Callable[[NDArray, NDArray], Mapping],
    *,
    min_members: int | None = None,
    complete: Callable[[Path, dict], None] | None = None,
) -> dict:
    """Joins the finished members to the model directory `out` and returns its card; `<out>.training` goes.

    `measure(p, y)` takes probabilities (members, n, classes) and classes (n,) of held-out rows and gives numbers and
    lists for the card's [measured.test] and [measured.validation]. `complete(folder, card)` may write more files into
    the directory before its card is, and add to the card. What members said of held-out rows is kept in
    `held_out.safetensors` (validation and test, probabilities and classes). The passes of MC dropout
    count as members there.
    Raises ValueError when members are unfinished and `min_members` (None: all) are not reached.
    """
    from safetensors.numpy import save_file

    out = Path(out)
    folder = locate_training(out)
    plan = _plan(folder)
    waiting = list_unfinished(out)
    done = [k for k in range(len(plan["seeds"])) if k not in waiting]
    if len(done) < (len(plan["seeds"]) if min_members is None else max(1, min_members)):
        raise ValueError(f"{folder}: members {waiting} of {len(plan['seeds'])} are not finished; train them first")
    for k in done:
        models.load_card(_member(folder, k))
    records = [json.loads((_member(folder, k) / RECORD).read_text(encoding="utf-8")) for k in done]
    files = [f"{_member(folder, k).name}.safetensors" for k in done]
    y = np.load(folder / "classes.npy")
    ends = np.cumsum([plan["n"][name] for name in SPLITS])
    held = {}
    measured = {}
    for name, start, end in zip(SPLITS[1:], ends, ends[1:]):
        if end > start:
            p = np.concatenate([np.load(_member(folder, k) / f"{name}.npy") for k in done])
            held |= {f"{name}.probabilities": p, f"{name}.classes": y[start:end]}
            measured[name] = dict(measure(p, y[start:end]))
    columns = {key: [record[key] for record in records] for key in records[0]}
    card = {
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
        "training": {**plan["training"], **{f"{k}_windows": v for k, v in plan["n"].items()}, **plan["schedule"]},
        "members": columns,
        "measured": measured,
    }
    with output_folders.write_folder(out) as fresh:
        for k, file in zip(done, files, strict=True):
            shutil.copyfile(_member(folder, k) / WEIGHTS, fresh / file)
        if held:
            save_file(held, str(fresh / "held_out.safetensors"))
        if complete is not None:
            complete(fresh, card)
        models.write_card(fresh, card)
    output_folders.remove_folder(folder)
    return card


def locate_training(out: str | Path) -> Path:
    """The folder beside the model directory `out` in which its members are trained."""
    return Path(f"{out}.training")


def _member(folder: Path, k: int) -> Path:
    return folder / f"member_{k:02d}"


def _plan(folder: Path) -> dict:
    if not (folder / PLAN).is_file():
        raise FileNotFoundError(f"{folder}: no training was prepared here")
    return json.loads(models.check_file(folder, PLAN, models.read_card(folder)).read_text(encoding="utf-8"))
