"""emqa review plan: the images that a person should check, drawn with known probabilities."""

import hashlib
import re
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats

from emqa_dask import tables
from emqa_dask.pipeline.commands.estimate_images import read_images
from emqa_dask.pipeline.workspace.sample_names import make_grouping
from emqa_dask.report.spreadsheet import ENCODING, format_plan_csv
from emqa_dask.review.gain import RESULTS, Gain
from emqa_dask.review.sampling import Draw, compute_standard_error, draw_images
from emqa_dask.settings import Settings, SettingsError, replace
from emqa_dask.store import files, marker, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.uris import name_frame

Say = Callable[[str], None]
TRIAGE_COLUMNS = ["micrograph_id", "n_detections", "predicted_f1_low", "predicted_f1_high"]
TRIAGE_COLUMNS += ["predicted_precision", "predicted_recall"]
COPY_TEXT = re.compile(r"(?:nearly )?the same (?:pixels )?as (.*?)(?:: \d+ % agreement \(limit \d+ %\))?", re.DOTALL)
LEVEL = 0.95  # of the interval that is announced


def plan_review(
    root: str,
    settings: Settings,
    *,
    budget: int = 200,
    result: str = "f1",
    grouping: str = "session",
    seed: int = 0,
    say: Say = print,
) -> int:
    """Exit code 0. Draws about `budget` covered images, with the probabilities that reduce the error of `result` most.

    `result`: f1 (mean F1), density, or triage (share of images that can be trusted), see review.gain. `grouping` gives
    the strata, over which the images are spread. Of near-duplicates at most one is drawn. Writes tables.REVIEW_PLAN
    with all covered images, and a CSV file with those that were drawn. The same arguments give the same plan. Raises
    ValueError without verdicts, measurements or covered images.
    """
    marker.read_source(root)
    if budget < 1:
        raise SettingsError(f"--budget {budget}: at least one image")
    replace(settings, {"report": {"samples": (grouping,)}}, "--by")  # SettingsError for what is none
    if result not in RESULTS:
        raise SettingsError(f"--for {result}: there are {', '.join(RESULTS)}")
    workspace = Workspace(root)
    images = read_covered(workspace, settings)
    images["sample"] = make_grouping(grouping).name_samples(images)
    gain = RESULTS[result](images)
    flags = parts.load_table(workspace.flags, tables.FLAGS, ["micrograph_id", "flag", "text"])
    groups = parts.load_table(workspace.duplicate_groups, tables.DUPLICATE_GROUPS, ["group", "micrograph_id"])
    clusters = number_clusters(images, flags, groups)
    strata = number_strata(images["sample"], gain)
    draw = draw_images(gain.deviations, strata, clusters, budget, seed)
    plan = _make_table(images, gain, draw, f"{result}, {budget}, {grouping}, {seed}")
    parts.write_table(workspace.review_plan, plan, tables.REVIEW_PLAN)
    files.write_bytes(workspace.review_plan_csv, format_plan_csv(plan).encode(ENCODING))
    n_copies = len(images) - len(np.unique(clusters))
    for line in _describe(result, images, gain, draw, n_copies):
        say(line)
    say(f"wrote {files.redact(workspace.review_plan)} and .csv")
    say(f"check the images: emqa review serve {files.redact(root)}")
    return 0


def read_covered(workspace: Workspace, settings: Settings) -> pd.DataFrame:
    """The covered images of estimate_images.read_images(), with TRIAGE_COLUMNS; ValueError where there is none."""
    images = read_images(workspace, settings)
    images = images[images["cover"] == ""]
    if images.empty:
        raise ValueError(f"{files.redact(workspace.uri)}: no image has the verdict trust or review and is measured")
    triage = parts.load_table(workspace.triage, tables.TRIAGE, TRIAGE_COLUMNS).dropna(subset="micrograph_id")
    return images.merge(triage, on="micrograph_id", how="left").reset_index(drop=True)


def number_strata(groups: pd.Series, gain: Gain) -> NDArray[np.int64]:
    """(n,) numbers of the strata over which a plan is spread: groups, apart from uninformative images.

    Images whose objects the detector does not see decide about the error of a result. So that the plan has its share
    of them, images whose detections say little are strata of their own.
    """
    numbers, names = pd.factorize(groups.astype(object), sort=True)
    return numbers + len(names) * gain.is_uninformative


def number_clusters(images: pd.DataFrame, flags: pd.DataFrame, groups: pd.DataFrame) -> NDArray[np.int64]:
    """(n,) numbers from 0 on of the clusters of duplicates and near-duplicates among `images`.

    groups: group and micrograph_id of tables.DUPLICATE_GROUPS; where it is empty, the flags tell the originals.
    """
    if len(groups):
        names = images["micrograph_id"].map(groups.set_index("micrograph_id")["group"].astype(str).radd("group "))
        return pd.factorize(names.fillna(images["micrograph_id"]).astype(object))[0]
    names = {name_frame(uri, frame): k for k, (uri, frame) in enumerate(zip(images["uri"], images["frame"]))}
    copies = flags[flags["flag"].isin(["duplicate", "near_duplicate"])]
    texts = dict(zip(copies["micrograph_id"], copies["text"]))
    # A copy belongs to its original by name, also where the original itself is not covered.
    originals = [
        COPY_TEXT.fullmatch(texts[key])[1] if key in texts else name_frame(uri, frame)
        for key, uri, frame in zip(images["micrograph_id"], images["uri"], images["frame"])
    ]
    places = [names.get(name, -1) for name in originals]
    # Of a copy of a copy the first original counts.
    roots = [originals[place] if place >= 0 else name for place, name in zip(places, originals)]
    return pd.factorize(np.array(roots, object))[0]


def _make_table(images: pd.DataFrame, gain: Gain, draw: Draw, options: str) -> pd.DataFrame:
    """Rows of tables.REVIEW_PLAN: drawn images by their position, then the others."""
    positions = np.full(len(images), len(images) + 1)
    positions[draw.positions] = np.arange(1, len(draw.positions) + 1)
    variances = gain.deviations**2
    table = images[["micrograph_id", "uri", "frame", "sample"]].assign(
        position=pd.array(np.where(positions > len(images), 0, positions), "Int64"),
        review_probability=draw.probabilities,
        gain=variances / variances.sum(),
        why=gain.reasons,
    )
    digest = hashlib.sha256(options.encode())
    digest.update("".join(table["micrograph_id"]).encode() + draw.probabilities.tobytes() + positions.tobytes())
    table["plan_id"] = digest.hexdigest()[:16]
    table["position"] = table["position"].mask(table["position"] == 0)
    return table.iloc[np.argsort(positions, kind="stable")].reset_index(drop=True)


def _describe(result: str, images: pd.DataFrame, gain: Gain, draw: Draw, n_copies: int) -> Iterator[str]:
    """Lines about a plan: its images, their strata, and the interval that is expected after the review."""
    n_drawn = len(draw.positions)
    n_strata = images["sample"].iloc[draw.positions].nunique()
    yield (
        f"{n_drawn:,} of {len(images):,} covered images to check, from {n_strata:,} of {images['sample'].nunique():,} "
        "strata"
    )
    if n_copies:
        yield f"  {n_copies:,} are copies or near-duplicates of others: at most one of each is among them"
    low, high = draw.probabilities.min(), draw.probabilities.max()
    yield f"  probabilities from {low:.3g} to {high:.3g}"
    error = compute_standard_error(gain.deviations, draw.probabilities)
    margin = stats.t.ppf((1 + LEVEL) / 2, max(n_drawn - 1, 1)) * error
    mean = gain.expected.mean()
    if result == "density":
        share = margin / gain.expected.sum() if gain.expected.sum() else np.nan
        yield f"  expected 95 % interval afterwards: density +- {100 * share:.1f} %"
    else:
        name = "mean F1" if result == "f1" else "share of images that can be trusted"
        yield f"  expected 95 % interval afterwards: {name} {mean:.2f} +- {margin / len(images):.3f}"
    yield "  the predictions give this expectation; `emqa estimate` computes the interval from the decisions"
