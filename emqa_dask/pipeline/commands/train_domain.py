"""The domain of a trained ensemble: limits, distances and regressions of shifts, in its model directory."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.numpy

from emqa_dask import imaging_conditions, models
from emqa_dask.pipeline.tasks.train_domain import examine_images, examine_shift_examples, examine_shifted_images
from emqa_dask.pipeline.workspace.sessions import QUANTITIES, REFERENCE_FILE
from emqa_dask.synthetic import shifts
from emqa_dask.train import class_labels, figures
from emqa_dask.uncertainty import entropy, referral, shift_model
from emqa_dask.uncertainty.classification import HELD_OUT_FILE
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs, join_outputs
from emqa_dask.uncertainty.shift_files import write_shift_model

MAX_EXAMINED = 1000  # images of each split that the domain is fitted to
MAX_EXAMPLES_PER_IMAGE = 4  # of each kind of shift
MIN_HELD_OUT = 40  # validation images; with fewer the test images set the limits, too
IMAGES_PER_TASK = 8
Say = Callable[[str], None]
Each = Callable[[Callable, list[tuple], str], list[dict]]  # (function, arguments, label) -> its records, in order


class DomainOptions(NamedTuple):
    """Options of the fit of a domain."""

    false_flags: float = 0.05  # share of in-domain images that may be flagged
    examples: int = 480  # of each kind of shift, made from held-out images
    shifted: tuple[tuple[str, str], ...] = ()  # (kind, folder of the user's own examples of it)
    cs_mm: float = 1.2  # spherical aberration, for Thon rings


class ExaminedSplit(NamedTuple):
    """Images of a split, and the ensemble's outputs on them."""

    rows: pd.DataFrame  # of the training table: uri, y, group, split
    outputs: EnsembleOutputs


def fit_classifier_domain(
    root: Path,
    table: pd.DataFrame,
    options: DomainOptions,
    say: Say,
    each: Each,
    device: str,
    folder: Path,
    model_card: dict,
) -> None:
    """Fits the domain to images, not windows; adds it to the ensemble in `folder` and to `model_card`.

    `each` calls a task's function for every tuple of arguments, in this process or on workers, on `device`.
    """
    model_card["ensemble"]["temperature"] = model_card["measured"].get("validation", {}).get("temperature", 1.0)
    _draw_figures(folder, model_card)
    models.write_model_card(folder, model_card)
    examiner = _Examiner(root, folder, device, options.cs_mm, each)
    splits = _examine_splits(examiner, table, say)
    held_out = _select_held_out({name: len(split.rows) for name, split in splits.items()})
    try:
        model = _fit_shift_model(examiner, splits, held_out, options, say)
    except ValueError as error:  # too few images: still a classifier, but one that flags nothing
        model_card["training"]["out_of_domain"] = f"nothing is flagged: {error}"
        say(model_card["training"]["out_of_domain"])
        return
    model_card |= write_shift_model(model, folder)
    features = splits["train"].outputs.features
    conditions = imaging_conditions.fit_training_conditions(features["defocus_nm"], features["voltage_kv"])
    model_card |= imaging_conditions.make_card_table(conditions)
    if "test" in splits and "test" not in held_out:
        is_flagged = shift_model.classify_shift(model, splits["test"].outputs)["shift_score"].gt(1)
        model_card["measured"]["domain"] = {
            "n": len(is_flagged),
            "false_flags_on_test": round(float(is_flagged.mean()), 4),
        }
    _write_reference(folder, model, join_outputs([splits[name].outputs for name in held_out]))


def _examine_splits(examiner: "_Examiner", table: pd.DataFrame, say: Say) -> dict[str, ExaminedSplit]:
    """The splits that have images, at most MAX_EXAMINED of each."""
    splits = {}
    for name in class_labels.SPLITS:
        rows = _sample_evenly(table[table["split"] == name], MAX_EXAMINED)
        if len(rows):
            say(f"domain: {len(rows)} images of split {name}")
            outputs = examiner.examine([examiner.root / uri for uri in rows["uri"]])
            splits[name] = ExaminedSplit(rows, outputs)
    return splits


def _fit_shift_model(
    examiner: "_Examiner",
    splits: Mapping[str, ExaminedSplit],
    held_out: Sequence[str],
    options: DomainOptions,
    say: Say,
) -> shift_model.ShiftModel:
    """The shift model with limits from the splits `held_out`; ValueError where they have too few images."""
    if not held_out:
        raise ValueError("no image was held out of the training")
    rows = pd.concat([splits[name].rows for name in held_out], ignore_index=True)
    paths = [examiner.root / uri for uri in rows["uri"][: options.examples]]
    examples = examiner.examine_shifted((paths * MAX_EXAMPLES_PER_IMAGE)[: options.examples])
    shifted = {kind: [outputs] for kind, outputs in examples.items()}
    for kind, directory in options.shifted:
        files = sorted(path for path in Path(directory).iterdir() if path.is_file())
        if example_outputs := examiner.examine_examples(files, say):
            shifted[kind].append(example_outputs)
    counts = {kind: sum(len(part.features) for part in parts) for kind, parts in shifted.items()}
    say("examples of shifts: " + ", ".join(f"{n} {kind}" for kind, n in counts.items()))
    train = splits["train"]
    return shift_model.fit_shift_model(
        train.outputs,
        train.rows["y"].to_numpy(),
        train.rows["group"].to_numpy(),
        join_outputs([splits[name].outputs for name in held_out]),
        {kind: join_outputs(parts) for kind, parts in shifted.items()},
        false_flags=options.false_flags,
        held_out_groups=rows["group"].to_numpy(),
    )


def _draw_figures(folder: Path, model_card: Mapping) -> None:
    """Writes <split>.png: reliability and referral of the held-out images."""
    file = folder / HELD_OUT_FILE
    held_out = safetensors.numpy.load_file(file) if file.is_file() else {}
    for name, figure_table in model_card["measured"].items():
        p = held_out[f"{name}.probabilities"]
        is_wrong = p.mean(axis=0).argmax(axis=1) != held_out[f"{name}.classes"]
        curve = referral.risk_coverage(entropy.predictive_entropy(p), is_wrong)
        bins = {key: figure_table[f"reliability_{key}"] for key in ("confidence", "accuracy", "n")}
        title = f"{model_card['name']}, {name}: ECE {figure_table['ece']:.3f}"
        figures.plot_held_out(bins, curve.coverage, curve.risk, title).savefig(folder / f"{name}.png", dpi=120)


def _sample_evenly(rows: pd.DataFrame, n_max: int) -> pd.DataFrame:
    """At most `n_max` rows, evenly over the table."""
    return rows.iloc[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), n_max)).round().astype(int))]


def _select_held_out(counts: Mapping[str, int]) -> tuple[str, ...]:
    """The splits that set the limits: validation; with less than MIN_HELD_OUT of its images also test."""
    is_enough = counts.get("validation", 0) >= MIN_HELD_OUT
    return tuple(name for name in ("validation", "test") if counts.get(name) and not (is_enough and name == "test"))


class _Examiner(NamedTuple):
    """Runs the ensemble in `folder` on images, IMAGES_PER_TASK of them in a task."""

    root: Path
    folder: Path
    device: str
    cs_mm: float
    each: Each

    def examine(self, paths: Sequence[Path]) -> EnsembleOutputs:
        """Outputs on the images at `paths`, with their defocus from Thon rings."""
        records = self._run_tasks(examine_images, paths, "examine images", self.cs_mm)
        return join_outputs([record["outputs"] for record in records])

    def examine_shifted(self, paths: Sequence[Path]) -> dict[str, EnsembleOutputs]:
        """Outputs on an example of every kind of shift made from each image, by kind, without Thon rings.

        Raises ValueError where no example can be made of an image.
        """
        records = self._run_tasks(examine_shifted_images, list(enumerate(paths)), "examine shifted images")
        for record in records:
            if "refused" in record:
                raise ValueError(record["refused"])
        return {kind: join_outputs([record[kind] for record in records]) for kind in shifts.KINDS}

    def examine_examples(self, paths: Sequence[Path], say: Say) -> EnsembleOutputs | None:
        """Outputs on the user's examples; files that cannot be read are reported. None where nothing is left."""
        records = self._run_tasks(examine_shift_examples, paths, "examine your examples")
        for text in (text for record in records for text in record["left_out"]):
            say(f"left out: {text}")
        parts = [record["outputs"] for record in records if "outputs" in record]
        return join_outputs(parts) if parts else None

    def _run_tasks(self, function: Callable, items: Sequence, label: str, *extra_arguments: object) -> list[dict]:
        """Records of `function` for all items, in order."""
        batches: Iterable[Sequence] = (
            items[first : first + IMAGES_PER_TASK] for first in range(0, len(items), IMAGES_PER_TASK)
        )
        arguments = [(str(self.folder), self.device, batch, *extra_arguments) for batch in batches]
        return self.each(function, arguments, label)


def _write_reference(folder: Path, model: shift_model.ShiftModel, held_out: EnsembleOutputs) -> None:
    """Writes REFERENCE_FILE: the QUANTITIES of in-domain images, with which sessions are compared (tables.DRIFTS)."""
    table = held_out.features.join(shift_model.classify_shift(model, held_out))
    table["predictive_entropy_nats"] = entropy.predictive_entropy(held_out.probabilities)
    values = {name: np.ascontiguousarray(table[name], np.float32) for name in QUANTITIES}
    (folder / REFERENCE_FILE).write_bytes(safetensors.numpy.save(values))
