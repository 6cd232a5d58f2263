"""emqa estimate: density, sizes and swelling of groups of images, from labels of some and detections in all."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.commands.estimate_groups import estimate_group, make_group
from emqa_dask.pipeline.commands.estimate_images import (
    NOT_PLANNED,
    TOTALS,
    compute_totals,
    has_probabilities,
    measure_labels,
    merge_probabilities,
    read_images,
)
from emqa_dask.pipeline.commands.estimate_quality import compute_quality
from emqa_dask.pipeline.commands.estimate_quantiles import PROBABILITIES
from emqa_dask.pipeline.commands.estimate_report import describe_group, list_titles
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.pipeline.workspace.reviewed import REVIEWED, read_reviewed_sample
from emqa_dask.pipeline.workspace.sample_names import NO_SAMPLE, make_grouping
from emqa_dask.review.labels.micrograph import LabelledMicrograph, list_errors
from emqa_dask.settings import Measure, Settings, replace
from emqa_dask.store import files, marker, parts
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
ALL_IMAGES = "all"  # grouping without groups
SAMPLE = "sample"  # grouping of the first entry of report.samples


def estimate(
    root: str,
    labels: str | Sequence[str],
    settings: Settings,
    *,
    grouping: str = ALL_IMAGES,
    probabilities: str = "",
    out: str = "",
    show: Sequence[str] = (),
    quantiles: Sequence[float] = (),
    say: Say = print,
) -> int:
    """Exit code 0. Estimates quantities of the covered images of each group and writes tables.ESTIMATES.

    Covered are the measured images with the verdict trust or review. `labels`: files of labels, of images from the
    archive, or the word `reviewed` for the decisions on the images of the plan. `grouping`: all, an entry of
    report.samples (session, folder, a CSV file ...), or sample for the first of these. `probabilities`: a CSV file with
    the columns uri and review_probability of the labelled images; a CSV file of labels may have the column itself.
    `out`: a .parquet or .csv file, by default estimates.parquet in the workspace. `show`: the quantities that are said,
    by default all. `quantiles`: their probabilities, by default PROBABILITIES.
    Raises ValueError for an unknown quantity or a probability outside (0, 1), labels of other images, labelled images
    without a review probability where others have one, and where no group has an estimate.
    """
    marker.read_source(root)
    paths = [labels] if isinstance(labels, str) else list(labels)
    if grouping == SAMPLE:
        grouping = settings.report.samples[0]
    if grouping != ALL_IMAGES:
        replace(settings, {"report": {"samples": (grouping,)}}, "--by")  # SettingsError for what is none
    if out and not out.lower().endswith((".parquet", ".csv")):
        raise ValueError(f"--out {out}: give a file that ends with .parquet or .csv")
    ranks = tuple(dict.fromkeys(quantiles)) or PROBABILITIES
    titles = _select_titles(ranks, show)
    workspace = Workspace(root)
    images = read_images(workspace, settings)
    images["sample"] = ALL_IMAGES
    if grouping != ALL_IMAGES:
        groups = make_grouping(grouping)
        images["sample"] = groups.name_samples(images)
        if n_overlaps := int(groups.find_overlaps(images).sum()):
            say(f"{grouping}: {n_overlaps:,} images match patterns of several samples; the first pattern counts")
    rejected: list[str] = []
    if REVIEWED in paths:
        matched, rejected, chances = _read_reviewed(workspace, paths, probabilities, images, say)
    else:
        matched = read_matched_labels(paths, images)
        chances = _read_chances(probabilities, paths, images, matched)
    say(_describe_labels(images, matched))
    quality = compute_quality(workspace, settings, images, matched)
    rows = _estimate_groups(images, matched, quality, rejected, chances, settings, ranks, titles, say)
    table = tables.conform([{"grouping": grouping} | row for row in rows], tables.ESTIMATES)
    target = out or workspace.estimates
    if target.lower().endswith(".csv"):
        files.write_text(target, table.to_pandas().to_csv(index=False))
    else:
        parts.write_table(target, table.to_pandas(), tables.ESTIMATES)
    say(f"wrote {files.redact(target)}")
    if not np.isfinite(table["estimate"].to_numpy()).any():
        raise ValueError(f"no group has an estimate: {rows[0]['remark']}")
    return 0


def _select_titles(ranks: tuple[float, ...], show: Sequence[str]) -> dict[str, str]:
    """The titles of the quantities that are said; ValueError for quantiles and quantities that do not exist."""
    if wrong_ranks := [rank for rank in ranks if not 0 < rank < 1]:
        raise ValueError(f"--quantile {wrong_ranks[0]:g}: give a probability between 0 and 1, such as 0.5")
    titles = list_titles(ranks)
    if unknown := [name for name in show if name not in titles]:
        raise ValueError(f"--show {unknown[0]}: give one of {', '.join(titles)}")
    return {name: title for name, title in titles.items() if not show or name in show}


def _read_reviewed(
    workspace: Workspace, paths: Sequence[str], probabilities: str, images: pd.DataFrame, say: Say
) -> tuple[dict[str, LabelledMicrograph], list[str], dict[str, float]]:
    """Labels, rejected images and probabilities of the decisions; images that are not in the plan are not covered."""
    if len(paths) > 1 or probabilities:
        raise ValueError(f"{REVIEWED} stands alone: its images have the probabilities of the plan")
    sample = read_reviewed_sample(workspace, images)
    for line in sample.lines:
        say(line)
    is_unplanned = ~images["micrograph_id"].isin(sample.planned) & images["cover"].eq("")
    images.loc[is_unplanned, "cover"] = NOT_PLANNED
    return sample.labels, sample.rejected, sample.probabilities


def _estimate_groups(
    images: pd.DataFrame,
    matched: dict[str, LabelledMicrograph],
    quality: pd.DataFrame,
    rejected: list[str],
    chances: dict[str, float] | None,
    settings: Settings,
    ranks: Sequence[float],
    titles: Mapping[str, str],
    say: Say,
) -> list[dict]:
    """Rows of tables.ESTIMATES of all groups, which are also told.

    quality: estimate_quality.compute_quality() of the labels; ranks: probabilities of the quantiles; titles: of the
    quantities that are said. Images that reviewers `rejected` have no objects.
    """
    measure = settings.measure
    has_boxes = all(label.boxes is not None for label in matched.values())
    if not has_boxes:
        say("sizes and swelling are left out: they need outlines or boxes for every labelled image")
    elif not measure.foil_thickness_nm:
        say("swelling is left out: measure.foil_thickness_nm is not set")
    true_rows = measure_labels(matched, images, measure, has_boxes).join(quality)
    thickness_nm = measure.foil_thickness_nm
    true_totals = pd.DataFrame(
        compute_totals(true_rows, thickness_nm, has_boxes), true_rows.index, columns=list(TOTALS)
    )
    # A rejected image has neither objects nor an area: the ratio is that of the images which reviewers accept.
    zeros = pd.DataFrame(0.0, pd.Index(rejected), list(TOTALS))
    true_totals = pd.concat([true_totals, zeros]) if rejected else true_totals
    predicted_totals = compute_totals(images, thickness_nm, has_boxes)
    uncertainty = _get_uncertainty(measure)
    rows: list[dict] = []
    for name, positions in sorted(images.groupby("sample", sort=False).indices.items()):
        if name == NO_SAMPLE:
            say(f"{len(positions):,} images belong to no sample")
            continue
        group_images = images.iloc[positions]
        group = make_group(group_images, predicted_totals[positions], true_totals, chances)
        group_rows = [{"sample": name} | row for row in estimate_group(group, has_boxes, uncertainty, ranks)]
        for line in describe_group(name, group_images, group_rows, titles):
            say(line)
        rows += group_rows
    return rows


def _get_uncertainty(settings: Measure) -> float:
    """Relative standard uncertainty of the foil thickness."""
    return settings.foil_thickness_uncertainty_nm / settings.foil_thickness_nm if settings.foil_thickness_nm else 0.0


def _read_chances(
    probabilities: str, paths: Sequence[str], images: pd.DataFrame, matched: dict[str, LabelledMicrograph]
) -> dict[str, float] | None:
    """micrograph_id -> review probability of every labelled image; None where nobody states any."""
    sources = [probabilities] if probabilities else [path for path in paths if has_probabilities(path)]
    if not sources:
        return None
    chances = merge_probabilities(sources, images)
    if missing := [label.name or label.content_sha256 for key, label in matched.items() if key not in chances]:
        raise ValueError(f"{', '.join(sources)}: labelled images without review_probability: {list_errors(missing)}")
    return chances


def _describe_labels(images: pd.DataFrame, matched: dict[str, LabelledMicrograph]) -> str:
    """The numbers of labelled images and of those that do not count."""
    covers = images.loc[images["micrograph_id"].isin(matched), "cover"]
    text = f"{len(matched):,} labelled images"
    causes = ", ".join(f"{n:,} {cause}" for cause, n in covers[covers.ne("")].value_counts().items())
    if causes:
        text = f"{text}; not covered and without influence: {causes}"
    if n_crowds := sum(label.has_crowds for label in matched.values()):
        text = f"{text}; {n_crowds:,} have groups of objects, which count as none"
    return text
