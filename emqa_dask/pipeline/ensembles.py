"""emqa train ensemble: members trained on Dask workers, and what they know of their images written beside them."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import models, windows
from emqa_dask.archive import readers
from emqa_dask.backend import to_device
from emqa_dask.featurise import rings
from emqa_dask.featurise.images import image_statistics
from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.drifting import QUANTITIES, REFERENCE
from emqa_dask.predict import entropy, referral, reliability, shift, transfer
from emqa_dask.run.cluster import open_cluster
from emqa_dask.run.execute import execute
from emqa_dask.run.progress import watch
from emqa_dask.run.supervise import Call, direct
from emqa_dask.run.task import Limits, Task
from emqa_dask.settings import Settings
from emqa_dask.synthetic import shifts
from emqa_dask.train import classes, classifier, member_fit

MOST_EXAMINED = 1000  # images of each split that what is in domain is learnt from
MOST_SHIFTED, SHIFTED_PX = 120, 1024  # held-out images that examples of shifts are made from, and their largest side
LEAST_HELD_OUT = 40  # with fewer validation images the test images help to say what is in domain
Say = Callable[[str], None]


def train_ensemble(
    labels: str,
    out: str,
    settings: Settings,
    *,
    images: str = "",
    view: windows.View,
    members: int = 16,
    method: str = "ensemble",
    architecture: Mapping | None = None,
    schedule: member_fit.Schedule | None = None,
    windows_per_image: int = 64,
    seed: int = 0,
    min_members: int = 0,
    false_flags: float = 0.05,
    licence: str = "not stated",
    say: Say = print,
) -> dict:
    """Train an ensemble on the images that the CSV `labels` names; the model directory `out` and its card.

    URIs are relative to the folder `images`, by default the CSV's own. Members are trained on the workers of
    run.scheduler, each by itself: an interrupted training goes on with what is finished and, within a member, from its
    last checkpoint. `out` and its `.training` folder have to be on a disk that the workers see. ValueError, naming
    files and lines, for labels that cannot be learnt from; RuntimeError when fewer than `min_members` (0: all) could be
    trained: run it again.
    """
    root = Path(images) if images else Path(os.path.abspath(labels)).parent
    table = classes.read_class_labels(labels, lambda uri: (root / uri).is_file())
    names = sorted(set(table["label"]))
    table = table.assign(y=np.searchsorted(names, table["label"]), group=_groups(table))
    say(f"{len(table)} images of {len(names)} classes: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}")
    table["split"] = _split(table, seed)
    out = Path(os.path.abspath(out))
    if not (out / "card.toml").is_file() or Path(f"{out}.training").is_dir():
        pairs = ((uri, _read(root / uri)[0]) for uri in table["uri"])
        stack, sources = classes.windows_of(pairs, view, most=windows_per_image)
        classifier.prepare(
            out, stack, table["y"].to_numpy()[sources], table["split"].to_numpy()[sources], names,
            view=view, members=members, seed=seed, architecture=architecture, schedule=schedule, method=method,
            training={"labels": Path(labels).name, "images": len(table)}, licence=licence,
        )  # fmt: skip
        say(f"{len(stack)} windows of {view.size_px} px; finished members stay in {out}.training")
        _train(out, settings, members, min_members or members, say)
        learn = functools.partial(_learn, root, table, false_flags, settings.featurise.cs_mm, say)
        card = classifier.finish(out, figures, min_members=min_members, complete=learn)
    else:
        card = models.load_card(out)
        say(f"{out} is trained already; take another --out to train anew")
    _tell(card, out, say)
    return card


def _groups(table: pd.DataFrame) -> pd.Series:
    """What stays together when images are split: the column `group`, or the image by itself."""
    return table["group"].where(table["group"].ne(""), table["uri"]) if "group" in table else table["uri"]


def _split(table: pd.DataFrame, seed: int) -> np.ndarray:
    """The column `split` where the labels have it; rows without one, and all without the column, are drawn."""
    drawn = classes.split_groups(table["y"], table["group"], seed=seed)
    return np.where(table["split"].ne(""), table["split"], drawn) if "split" in table else drawn


def _read(path: Path) -> tuple[np.ndarray, float, float]:
    """The first micrograph of a file, its pixel size in nm and voltage in kV, NaN where unknown."""
    image, header = readers.read_micrograph(path)
    return image, header.nm_per_pixel, header.voltage_kv


def train_one(out: str, k: int, device: str, call: Call = direct) -> dict:
    """A task: member `k` of what was laid out at `out`."""
    return classifier.train_member(Path(out), k, device=device) | {"n_images": 1}


def _train(out: Path, settings: Settings, n_members: int, least: int, say: Say) -> None:
    """Members that are still to be trained, on the workers; RuntimeError where fewer than `least` are in the end."""
    waiting, device = classifier.unfinished(out), settings.detect.device
    if not waiting:
        return
    if settings.run.scheduler == "in-process":
        to_device(np.zeros(1), device)
    tasks = [Task(f"member_{k:02d}", (str(out), k, device), 1) for k in waiting]
    failed = []
    with open_cluster(settings, (*PRELOAD, __name__), say) as client:
        if client is not None:
            say(f"{len(client.nthreads())} workers; dashboard: {client.dashboard_link}")
        resources = {"GPU": 1} if device == "cuda" else None
        results = execute(
            train_one, tasks, stage="train", client=client, tasks_per_worker=1, limits=Limits(), resources=resources
        )
        for result in watch(results, "train", len(tasks), unit="members"):
            if result.outcome == "failed":
                failed.append(f"{result.task.name}: {result.error}")
            elif result.outcome == "done":
                known = (name for name in ("validation_accuracy", "test_accuracy") if name in result.value)
                text = ", ".join(f"{name.replace('_', ' ')} {result.value[name]:.3f}" for name in known)
                say(f"{result.task.name}: {result.value['epochs']} epochs, {result.value['seconds']:.0f} s; {text}")
    n = n_members - len(classifier.unfinished(out))
    if n < least:
        raise RuntimeError(f"{n} members are trained, {least} are needed ({'; '.join(failed)}); run it again to go on")


def figures(p: np.ndarray, y: np.ndarray) -> dict:
    """What a card says of held-out windows: p (members, n, classes) and classes y (n,)."""
    mean = p.mean(axis=0, dtype=float)
    is_wrong, doubt = mean.argmax(axis=1) != y, entropy.predictive_entropy(p)
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


def _learn(
    root: Path, table: pd.DataFrame, false_flags: float, cs_mm: float, say: Say, folder: Path, card: dict
) -> None:
    """complete(folder, card) of classifier.finish(): what is in domain, from images and not from windows."""
    from emqa_dask.classify import load_ensemble

    card["ensemble"]["temperature"] = card["measured"].get("validation", {}).get("temperature", 1.0)
    models.write_card(folder, card)
    ensemble, of, seen = load_ensemble(folder), {}, {}
    for name in classes.SPLITS:
        of[name] = _evenly(table[table["split"] == name], MOST_EXAMINED)
        if len(of[name]):
            say(f"what is in domain: {len(of[name])} images of split {name}")
            seen[name] = _seen(ensemble, [root / uri for uri in of[name]["uri"]], cs_mm)
    held_out = _held_out(seen)
    if held_out is None:
        card["training"]["out_of_domain"] = "no image was held out: nothing is flagged"
        say(f"nothing will be flagged: {card['training']['out_of_domain']}")
        return
    rows = _evenly(table[table["split"].ne("train")], MOST_SHIFTED)
    pictures = shifts.shifted_examples([_middle(_read(root / uri)[0], SHIFTED_PX) for uri in rows["uri"]], seed=0)
    shifted = {kind: _seen_images(ensemble, images) for kind, images in pictures.items()}
    say("examples of shifts: " + ", ".join(f"{len(images)} {kind}" for kind, images in pictures.items()))
    train, groups = seen["train"], of["train"]["group"].to_numpy()
    try:
        known = shift.fit(train, of["train"]["y"].to_numpy(), groups, held_out, shifted, false_flags=false_flags)
    except ValueError as error:  # too few images: a classifier still, but one that flags nothing
        card["training"]["out_of_domain"] = str(error)
        say(f"nothing will be flagged as out of domain: {error}")
        return
    card |= shift.save(known, folder)
    card |= transfer.to_card(transfer.conditions(train.features["defocus_nm"], train.features["voltage_kv"]))
    if "test" in seen and len(held_out.features) == len(seen["validation"].features):
        is_flagged = shift.judge(known, seen["test"])["shift_score"].gt(1)
        card["measured"]["domain"] = {"n": len(is_flagged), "false_flags_on_test": round(float(is_flagged.mean()), 4)}
    _save_reference(folder, known, held_out)


def _evenly(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]


def _held_out(seen: Mapping[str, shift.Seen]) -> shift.Seen | None:
    """The images by which limits are set: those of validation; where these are few, of test, too."""
    n = len(seen["validation"].features) if "validation" in seen else 0
    if n >= LEAST_HELD_OUT or (n and "test" not in seen):
        return seen["validation"]
    parts = [seen[name] for name in ("validation", "test") if name in seen]
    return _joined(parts) if parts else None


def _middle(image: np.ndarray, side_px: int) -> np.ndarray:
    y, x = (max(0, (n - side_px) // 2) for n in image.shape)
    return image[y : y + side_px, x : x + side_px]


def _seen(ensemble, paths: Sequence[Path], cs_mm: float) -> shift.Seen:
    """What the ensemble and the statistics say of the images at `paths`, one in memory at a time."""
    said = []
    for path in paths:
        image, nm, voltage = _read(path)
        one = _seen_images(ensemble, [image])
        defocus = rings.thon_rings(image, nm, voltage, cs_mm=cs_mm).defocus_nm
        said.append(one._replace(features=one.features.assign(defocus_nm=defocus, voltage_kv=voltage)))
    return _joined(said)


def _seen_images(ensemble, images: Sequence[np.ndarray]) -> shift.Seen:
    from emqa_dask.classify.rows import EMBEDDED

    images = [image for image in images if not ensemble.refusal(image.shape)]
    examined = [one for image in images for one in ensemble.examine([image])]
    p = np.stack([one.probabilities for one in examined], axis=1)
    embeddings = np.stack([one.embeddings[:EMBEDDED] for one in examined], axis=1)
    return shift.Seen(p, embeddings, pd.DataFrame([image_statistics(image) for image in images]))


def _joined(parts: Sequence[shift.Seen]) -> shift.Seen:
    p, embeddings = (np.concatenate([getattr(part, name) for part in parts], axis=1) for name in shift.Seen._fields[:2])
    return shift.Seen(p, embeddings, pd.concat([part.features for part in parts], ignore_index=True))


def _save_reference(folder: Path, known: shift.Known, held_out: shift.Seen) -> None:
    """The quantities by which sessions are held against the in-domain images: tables.DRIFTS' reference."""
    said = held_out.features.join(shift.judge(known, held_out))
    said["predictive_entropy_nats"] = entropy.predictive_entropy(held_out.probabilities)
    values = {name: np.ascontiguousarray(said[name], np.float32) for name in QUANTITIES}
    (folder / REFERENCE).write_bytes(safetensors.numpy.save(values))


def _tell(card: Mapping, out: Path, say: Say) -> None:
    for name, of in card.get("measured", {}).items():
        told = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in of.items() if not isinstance(value, list))
        say(f"{name}: {told}")
    say(f"model directory {out}: emqa triage SRC --classifier {out}")
