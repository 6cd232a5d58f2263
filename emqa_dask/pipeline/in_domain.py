"""What a trained ensemble knows of the images it is from: limits, distances, examples of shifts, beside its members."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import models
from emqa_dask.archive import readers
from emqa_dask.featurise import rings
from emqa_dask.featurise.images import image_statistics
from emqa_dask.pipeline.drifting import QUANTITIES, REFERENCE
from emqa_dask.predict import entropy, referral, shift, transfer
from emqa_dask.predict.classified import HELD_OUT
from emqa_dask.synthetic import shifts
from emqa_dask.train import classes, diagrams

MOST_EXAMINED = 1000  # images of each split that what is in domain is learnt from
MOST_SHIFTED, SHIFTED_PX = 120, 1024  # held-out images that examples of shifts are made from, and their largest side
LEAST_HELD_OUT = 40  # with fewer validation images the test images help to say what is in domain
Say = Callable[[str], None]


def read(path: Path) -> tuple[np.ndarray, float, float]:
    """The first micrograph of a file, its pixel size in nm and voltage in kV, NaN where unknown."""
    image, header = readers.read_micrograph(path)
    return image, header.nm_per_pixel, header.voltage_kv


def learn(
    root: Path, table: pd.DataFrame, false_flags: float, cs_mm: float, say: Say, folder: Path, card: dict
) -> None:
    """complete(folder, card) of classifier.finish(): what is in domain, from images and not from windows."""
    from emqa_dask.classify import load_ensemble

    card["ensemble"]["temperature"] = card["measured"].get("validation", {}).get("temperature", 1.0)
    _draw(folder, card)
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
    pictures = shifts.shifted_examples([_middle(read(root / uri)[0], SHIFTED_PX) for uri in rows["uri"]], seed=0)
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


def _draw(folder: Path, card: Mapping) -> None:
    """<split>.png: reliability and referral of what was held out."""
    held = folder / HELD_OUT
    said = safetensors.numpy.load_file(held) if held.is_file() else {}
    for name, measured in card["measured"].items():
        p, y = said[f"{name}.probabilities"], said[f"{name}.classes"]
        curve = referral.risk_coverage(entropy.predictive_entropy(p), p.mean(axis=0).argmax(axis=1) != y)
        bins = {key: measured[f"reliability_{key}"] for key in ("confidence", "accuracy", "n")}
        title = f"{card['name']}, {name}: ECE {measured['ece']:.3f}"
        diagrams.held_out_figure(bins, curve.coverage, curve.risk, title).savefig(folder / f"{name}.png", dpi=120)


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
        image, nm, voltage = read(path)
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
