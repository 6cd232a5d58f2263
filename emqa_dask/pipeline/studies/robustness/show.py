"""Tables, figures and main figures of the study of robustness, from its results."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from emqa_dask.pipeline.studies import output
from emqa_dask.pipeline.studies.robustness import figures
from emqa_dask.pipeline.studies.robustness.levels import TUNED, UNTUNED, LevelResult, LevelRunner

TITLE = "emqa study robustness"
SETTINGS = ("threshold", "overlap", "min_sigma", "max_sigma", "num_sigma")
MODERATE_NOISE = 0.5  # figures B and C show the level that is nearest to it
PAPER = (
    "After Barakati et al., Physics-based reward driven image analysis in microscopy, figure 3. Noise is Gaussian; its "
    "level is the standard deviation as a fraction of the range of grey values of the image as it was recorded, which "
    "has noise of its own. LoG* is tuned anew at each level; the untuned LoG has the settings in use at all of them."
)


def write_robustness_study(
    out: str, results: Sequence[LevelResult], runners: Sequence[LevelRunner], facts: Mapping[str, Any]
) -> None:
    """Writes the folder of the study."""
    counts = tabulate_counts(results)
    tables = [
        output.StudyTable("summary_by_noise", "Counts by level of noise", summarise_counts(counts)),
        output.StudyTable("settings", "Settings of LoG* and their objectives", tabulate_settings(results)),
        output.StudyTable("counts", "Objects of each image by detector and level of noise", counts),
        output.StudyTable("evaluations", "Every evaluation of the searches", tabulate_evaluations(results)),
    ]
    plots = []
    for number, runner in enumerate(runners, 1):
        own = [result for result in results if result.group == runner.tuning.group.name]
        example = min(own, key=lambda result: abs(result.noise - MODERATE_NOISE))
        pixels = runner.make_images(example.noise)[0].read_pixels()
        uri = runner.tuning.rows["uri"][0]
        caption = (
            f"{own[0].group}, {len(runner.tuning.rows)} images: A settings of LoG*, B objects of LoG* at noise "
            f"{example.noise:g} on {uri}, C those of another detector, D objectives, E and F counts, where an object "
            "at the edge of the image counts less; lines: median of the images, bands: from the least to the largest."
        )
        name = "figure3" if len(runners) == 1 else f"figure3-{number}"
        plots.append(output.StudyFigure(name, caption, figures.plot_noise_study(own, example, pixels)))
    summary = {**facts, "n_levels": len(facts["noise_levels"]), "largest_count_error": largest_errors(counts)}
    output.write_study(out, TITLE, summary, tables, plots, [PAPER, *describe_results(results)])


def tabulate_counts(results: Sequence[LevelResult]) -> pd.DataFrame:
    """A row for each group, level of noise, image and detector."""
    tables = [result.rows.assign(group=result.group, noise=result.noise) for result in results]
    table = pd.concat(tables, ignore_index=True)
    first = ["group", "noise", "uri", "detector"]
    return table[first + [name for name in table if name not in first]]


def summarise_counts(counts: pd.DataFrame) -> pd.DataFrame:
    """A row for each group, level and detector: median count, largest errors, and mean F1 where objects are known."""
    grouped = counts.assign(abs_count_error=counts["count_error"].abs())
    columns = {
        "n_images": ("uri", "nunique"),
        "median_n_objects": ("n_objects", "median"),
        "mean_n_expected": ("n_expected", "mean"),
        "largest_count_error": ("abs_count_error", "max"),
        "largest_crowding": ("crowding", "max"),
    }
    if "f1" in counts:
        grouped["abs_known_count_error"] = counts["known_count_error"].abs()
        columns |= {"largest_known_count_error": ("abs_known_count_error", "max"), "mean_f1": ("f1", "mean")}
    return grouped.groupby(["group", "noise", "detector"], sort=False).agg(**columns).reset_index()


def tabulate_settings(results: Sequence[LevelResult]) -> pd.DataFrame:
    """A row for each group and level of noise: the chosen settings and their objectives."""
    return pd.DataFrame(
        [{"group": result.group, "noise": result.noise, **result.chosen_settings} for result in results]
    )


def tabulate_evaluations(results: Sequence[LevelResult]) -> pd.DataFrame:
    """All evaluations of all searches."""
    tables = [result.history.assign(group=result.group, noise=result.noise) for result in results]
    table = pd.concat(tables, ignore_index=True)
    return table[["group", "noise", *table.columns.drop(["group", "noise"])]]


def largest_errors(counts: pd.DataFrame) -> dict[str, float]:
    """The largest error of the count by detector, over all images and levels."""
    return counts.assign(error=counts["count_error"].abs()).groupby("detector", sort=False)["error"].max().to_dict()


def describe_results(results: Sequence[LevelResult]) -> list[str]:
    """A line for each group: the largest error of the count of LoG* and of the untuned LoG."""
    counts = tabulate_counts(results)
    lines = []
    for group, rows in counts.groupby("group", sort=False):
        errors = largest_errors(rows)
        lines.append(
            f"{group}: noise {rows['noise'].min():g} to {rows['noise'].max():g}, largest error of the count "
            f"{errors[TUNED]:.1%} with {TUNED}, {errors[UNTUNED]:.1%} with {UNTUNED}"
        )
    return lines
