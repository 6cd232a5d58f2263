"""Decisions of reviewers as labels: of the images of a workspace whose pixels are those that were judged."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.review.decisions import (
    CONTRADICTORY,
    DECISIVE,
    IMAGE,
    compute_agreement,
    list_boxes,
    resolve,
    select_current,
)
from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.store import decisions, files, parts
from emqa_dask.store.layout import Workspace

REVIEWED = "reviewed"  # in place of a file of labels: the decisions of the workspace
SIZES = ("diameter_px", "area_px")


class Reviewed(NamedTuple):
    """The decisions that count for the images of a ledger."""

    labels: dict[str, LabelledMicrograph]  # micrograph_id -> objects of an accepted image
    rejected: list[str]  # micrograph_id of images that must not be used
    lines: list[str]  # about the decisions, for the user


class ReviewedSample(NamedTuple):
    """The reviewed images of a plan, and their probabilities."""

    labels: dict[str, LabelledMicrograph]
    rejected: list[str]
    probabilities: dict[str, float]  # micrograph_id -> probability, of the images in labels and rejected
    planned: set[str]  # micrograph_id of all images with a probability above 0
    lines: list[str]


def read_resolved(workspace: Workspace) -> tuple[pd.DataFrame, list[str]]:
    """Rows of review.decisions.resolve() of all decisions, and the URIs of damaged files."""
    rows, damaged = decisions.read_decisions(workspace.uri)
    return resolve(select_current(rows)), damaged


def read_reviewed(workspace: Workspace, ledger: pd.DataFrame) -> Reviewed:
    """The decisions on the images of `ledger` (micrograph_id, uri, frame, pixel_sha256).

    Decisions on images whose pixels have changed since, or that the archive does not contain any longer, do not count,
    nor do those that contradict each other. Raises ValueError without any decision.
    """
    resolved, damaged = read_resolved(workspace)
    if resolved.empty:
        root = files.redact(workspace.uri)
        raise ValueError(f"{root} has no decisions: `emqa review serve {root}` takes some")
    rows = resolved.drop(columns="micrograph_id").merge(ledger[["micrograph_id", *IMAGE]], on=IMAGE, how="left")
    current = rows[rows["micrograph_id"].notna()]
    labels = {}
    for row in current[current["decision"].eq("accept") & current["objects"].notna()].to_dict("records"):
        labels[row["micrograph_id"]] = make_label(row)
    rejected = current.loc[current["decision"] == "reject", "micrograph_id"].tolist()
    return Reviewed(labels, rejected, list(_describe(rows, damaged)))


def _describe(rows: pd.DataFrame, damaged: Sequence[str]) -> Iterator[str]:
    """Lines about decisions: those that count, and those that do not and why."""
    is_current = rows["micrograph_id"].notna()
    counts = rows.loc[is_current, "decision"].value_counts()
    n_counted = int(counts.reindex(DECISIVE, fill_value=0).sum())
    names = sorted({name for names in rows["reviewers"] for name in names})
    kinds = ", ".join(f"{n:,} {kind}" for kind, n in counts.items())
    yield f"decisions of {', '.join(names)} on {is_current.sum():,} images: {kinds}; {n_counted:,} count"
    contradictory = rows.loc[is_current & rows["decision"].eq(CONTRADICTORY), "uri"].tolist()
    if contradictory:
        yield f"  reviewers contradict each other, does not count: {list_errors(contradictory)}"
    if changed := rows.loc[~is_current, "uri"].tolist():
        yield f"  changed since the decision or not in the archive, does not count: {list_errors(changed)}"
    if damaged:
        yield f"  damaged, does not count: {list_errors(list(damaged))}"


def describe_review(workspace: Workspace) -> Iterator[str]:
    """Lines about the decisions of a workspace and the agreement of its reviewers; none without decisions."""
    rows, damaged = decisions.read_decisions(workspace.uri)
    if damaged:
        yield f"{len(damaged):,} damaged decisions: emqa verify"
    current = select_current(rows)
    for name, own in current.groupby("reviewer"):
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in own["decision"].value_counts().items())
        yield f"{name} has decided on {len(own):,} images: {kinds}"
    for pair in compute_agreement(current).to_dict("records"):
        names = f"{pair['first_reviewer']} and {pair['second_reviewer']}"
        kappa = f", Cohen's kappa {pair['kappa']:.2f}" if np.isfinite(pair["kappa"]) else ""
        boxes = f", F1 of their boxes {pair['box_f1']:.2f} on {pair['n_boxed']:,} images" if pair["n_boxed"] else ""
        yield f"{names} agree on {pair['n_agreeing']:,} of {pair['n_images']:,} images{kappa}{boxes}"


def make_label(row: dict) -> LabelledMicrograph:
    """The label of an accepted image: boxes with their sizes, or points where one of the objects is a point.

    A box without a size counts as the ellipse that fills it.
    """
    boxes = list_boxes(row["objects"])
    if boxes is None:
        corners = np.array([[entry[name] for name in ("y0", "x0", "y1", "x1")] for entry in row["objects"]], float)
        points = (corners[:, :2] + corners[:, 2:]) / 2
        return LabelledMicrograph(row["uri"], int(row["frame"]), None, points=points)
    diameters, areas = (np.array([entry[name] for entry in row["objects"]], float) for name in SIZES)
    box_areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    return LabelledMicrograph(
        row["uri"],
        int(row["frame"]),
        None,
        boxes=boxes,
        diameters_px=np.where(np.isfinite(diameters), diameters, np.sqrt(box_areas)),
        areas_px=np.where(np.isfinite(areas), areas, np.pi / 4 * box_areas),
    )


def read_reviewed_sample(workspace: Workspace, ledger: pd.DataFrame) -> ReviewedSample:
    """The reviewed images of the plan with their probabilities; ValueError without a plan.

    The order of a plan is random, so that k decided of n drawn images are drawn with k / n of the plan's probability.
    Decided images outside the plan do not count.
    """
    root = files.redact(workspace.uri)
    plan = parts.load_table(
        workspace.review_plan, tables.REVIEW_PLAN, ["micrograph_id", "position", "review_probability"]
    )
    if plan.empty:
        raise ValueError(
            f"{root} has no plan, so that the probabilities of its decisions are unknown: emqa review plan"
        )
    reviewed = read_reviewed(workspace, ledger)
    drawn_chances = plan[plan["position"].notna()].set_index("micrograph_id")["review_probability"]
    rejected = [key for key in reviewed.rejected if key in drawn_chances.index]
    labels = {key: label for key, label in reviewed.labels.items() if key in drawn_chances.index}
    decided = [*labels, *rejected]
    if not labels:
        raise ValueError(f"{root}: no image of the plan is accepted with its objects: emqa review serve {root}")
    share = len(decided) / len(drawn_chances)
    lines = [*reviewed.lines, f"{len(decided):,} of {len(drawn_chances):,} images of the plan are decided"]
    if len(decided) < len(drawn_chances):
        lines.append("  the others are taken as missing at random, as where the review stopped on the way")
    if n_outside := len(reviewed.labels) + len(reviewed.rejected) - len(decided):
        lines.append(f"  {n_outside:,} decided images outside the plan have no influence")
    if rejected:
        lines.append(f"  {len(rejected):,} are rejected: the estimate holds for the images that reviewers accept")
    probabilities = {key: float(drawn_chances[key]) * share for key in decided}
    return ReviewedSample(labels, rejected, probabilities, set(plan["micrograph_id"]), lines)
