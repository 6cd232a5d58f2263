"""What a trained ensemble knows of the images it is from: limits, distances, examples of shifts, beside its members."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import imaging_conditions, models
from emqa_dask.pipeline.tasks.train_domain import _joined, see, see_foreign, see_shifted
from emqa_dask.pipeline.workspace.sessions import QUANTITIES, REFERENCE
from emqa_dask.synthetic import shifts
from emqa_dask.train import class_labels, figures
from emqa_dask.uncertainty import entropy, referral, shift_model
from emqa_dask.uncertainty.classification import HELD_OUT_FILE

MOST_EXAMINED = 1000  # images of each split that what is in domain is learnt from
REPEATS = 4  # examples of a kind from one image, at most
LEAST_HELD_OUT = 40  # with fewer validation images the test images help to say what is in domain
CHUNK = 8  # images that a task looks at
Say = Callable[[str], None]
Each = Callable[[Callable, list[tuple], str], list[dict]]  # (function, arguments, what) -> its records, in order


class Wanted(NamedTuple):
    """How what is in domain is learnt."""

    false_flags: float = 0.05  # share of in-domain images that may be flagged
    examples: int = 480  # of each kind of shift, made from held-out images
    shifted: tuple[tuple[str, str], ...] = ()  # (kind, folder of the user's own examples of it)
    cs_mm: float = 1.2  # spherical aberration, for Thon rings


def learn(
    root: Path, table: pd.DataFrame, wanted: Wanted, say: Say, each: Each, device: str, folder: Path, card: dict
) -> None:
    """complete(folder, card) of classifier.finish(): what is in domain, from images and not from windows.

    `each` calls a task's function for every tuple of arguments, wherever that is, on `device`.
    """
    card["ensemble"]["temperature"] = card["measured"].get("validation", {}).get("temperature", 1.0)
    _draw(folder, card)
    models.write_card(folder, card)
    look = _Look(root, folder, device, wanted.cs_mm, each)
    of = {}
    seen = {}
    for name in class_labels.SPLITS:
        rows = _evenly(table[table["split"] == name], MOST_EXAMINED)
        if len(rows):
            say(f"what is in domain: {len(rows)} images of split {name}")
            of[name] = rows
            seen[name] = look.at([root / uri for uri in rows["uri"]])
    names = _held_out({name: len(rows) for name, rows in of.items()})
    try:
        known = _fitted(look, of, seen, names, wanted, say)
    except ValueError as error:  # too few images: a classifier still, but one that flags nothing
        card["training"]["out_of_domain"] = f"nothing is flagged: {error}"
        say(card["training"]["out_of_domain"])
        return
    card |= shift_model.write_shift_model(known, folder)
    features = seen["train"].features
    card |= imaging_conditions.make_card_table(
        imaging_conditions.fit_training_conditions(features["defocus_nm"], features["voltage_kv"])
    )
    if "test" in seen and "test" not in names:
        is_flagged = shift_model.classify_shift(known, seen["test"])["shift_score"].gt(1)
        card["measured"]["domain"] = {"n": len(is_flagged), "false_flags_on_test": round(float(is_flagged.mean()), 4)}
    _save_reference(folder, known, _joined([seen[name] for name in names]))


def _fitted(
    look: "_Look",
    of: Mapping[str, pd.DataFrame],
    seen: Mapping[str, shift_model.EnsembleOutputs],
    names: Sequence[str],
    wanted: Wanted,
    say: Say,
) -> shift_model.ShiftModel:
    """The judge of shifts from the splits `names` that were held out; ValueError where they are too few."""
    if not names:
        raise ValueError("no image was held out of the training")
    rows = pd.concat([of[name] for name in names], ignore_index=True)
    paths = [look.root / uri for uri in rows["uri"][: wanted.examples]]
    shifted = {kind: [seen] for kind, seen in look.at_shifted((paths * REPEATS)[: wanted.examples]).items()}
    for kind, where in wanted.shifted:
        if own := look.at_foreign(sorted(path for path in Path(where).iterdir() if path.is_file()), say):
            shifted[kind].append(own)
    counts = {kind: sum(len(part.features) for part in parts) for kind, parts in shifted.items()}
    say("examples of shifts: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    return shift_model.fit_shift_model(
        seen["train"],
        of["train"]["y"].to_numpy(),
        of["train"]["group"].to_numpy(),
        _joined([seen[name] for name in names]),
        {kind: _joined(parts) for kind, parts in shifted.items()},
        false_flags=wanted.false_flags,
        held_out_groups=rows["group"].to_numpy(),
    )


def _draw(folder: Path, card: Mapping) -> None:
    """<split>.png: reliability and referral of what was held out."""
    held = folder / HELD_OUT_FILE
    said = safetensors.numpy.load_file(held) if held.is_file() else {}
    for name, measured in card["measured"].items():
        p = said[f"{name}.probabilities"]
        y = said[f"{name}.classes"]
        curve = referral.risk_coverage(entropy.predictive_entropy(p), p.mean(axis=0).argmax(axis=1) != y)
        bins = {key: measured[f"reliability_{key}"] for key in ("confidence", "accuracy", "n")}
        title = f"{card['name']}, {name}: ECE {measured['ece']:.3f}"
        figures.plot_held_out(bins, curve.coverage, curve.risk, title).savefig(folder / f"{name}.png", dpi=120)


def _evenly(rows: pd.DataFrame, most: int) -> pd.DataFrame:
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), most)).round().astype(int))]


def _held_out(counts: Mapping[str, int]) -> tuple[str, ...]:
    """The splits by which limits are set: validation; where its images are few, test, too."""
    is_enough = counts.get("validation", 0) >= LEAST_HELD_OUT
    return tuple(name for name in ("validation", "test") if counts.get(name) and not (is_enough and name == "test"))


class _Look(NamedTuple):
    """Has the ensemble in `folder` look at images, `CHUNK` of them in a task."""

    root: Path
    folder: Path
    device: str
    cs_mm: float
    each: Each

    def at(self, paths: Sequence[Path]) -> shift_model.EnsembleOutputs:
        """What the ensemble, the statistics and Thon rings say of the images at `paths`."""
        return _joined([record["seen"] for record in self._each(see, paths, "look at images", self.cs_mm)])

    def at_shifted(self, paths: Sequence[Path]) -> dict[str, shift_model.EnsembleOutputs]:
        """The same, but rings, of an example of every kind of shift made from each of the images, by kind.

        ValueError where none can be made of an image.
        """
        records = self._each(see_shifted, list(enumerate(paths)), "look at made shifts")
        for record in records:
            if "refused" in record:
                raise ValueError(record["refused"])
        return {kind: _joined([record[kind] for record in records]) for kind in shifts.KINDS}

    def at_foreign(self, paths: Sequence[Path], say: Say) -> shift_model.EnsembleOutputs | None:
        """The same of a user's examples; what cannot be read is left out, and told. None where nothing is left."""
        records = self._each(see_foreign, paths, "look at your examples")
        for text in (text for record in records for text in record["left_out"]):
            say(f"left out: {text}")
        seen = [record["seen"] for record in records if "seen" in record]
        return _joined(seen) if seen else None

    def _each(self, function: Callable, items: Sequence, what: str, *more) -> list[dict]:
        starts = range(0, len(items), CHUNK)
        todo = [(str(self.folder), self.device, items[k : k + CHUNK], *more) for k in starts]
        return self.each(function, todo, what)


def _save_reference(folder: Path, known: shift_model.ShiftModel, held_out: shift_model.EnsembleOutputs) -> None:
    """The quantities by which sessions are held against the in-domain images: tables.DRIFTS' reference."""
    said = held_out.features.join(shift_model.classify_shift(known, held_out))
    said["predictive_entropy_nats"] = entropy.predictive_entropy(held_out.probabilities)
    values = {name: np.ascontiguousarray(said[name], np.float32) for name in QUANTITIES}
    (folder / REFERENCE).write_bytes(safetensors.numpy.save(values))
