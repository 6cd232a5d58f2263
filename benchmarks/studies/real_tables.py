"""The tables of real.py as Markdown."""

from pathlib import Path

import pandas as pd

SHOWN_SET = ["model", "set", "fold", "n_images", "f1_iou_0.1", "f1_iou_0.3", "f1_iou_0.5", "selected_floor"]
SHOWN_SET += ["selected_f1_iou_0.1", "selected_f1_iou_0.5", "best_score_floor", "best_f1_iou_0.1", "best_f1_iou_0.5"]
SHOWN_SET += ["mask_ap50", "n_good", "class_f1_iou_0.5"]
SHOWN_ERRORS = ["model", "set", "fold", "n_true", "n_detections", "share_missed", "share_merged", "share_split"]
SHOWN_ERRORS += ["share_badly_placed", "share_false", "share_duplicate", "share_merger", "share_fragment"]
SHOWN_VERDICT = ["set", "n_images", "n_possible", "n_trusted", "n_trusted_correctly", "trust_precision", "trust_recall"]
SHOWN_VERDICT += ["n_review", "n_out_of_domain", "n_junk", "n_predicted", "mae", "coverage", "mean_width"]
SHOWN_VERDICT += ["median_width", "spearman"]
SHOWN_FLOORS = (0.1, 0.3, 0.5, 0.7, 0.9)  # of counts


def format_report(folder: Path, arguments: str) -> str:
    """Text of summary.md from the tables in `folder`."""
    sections = [f"`python -m benchmarks.studies.real {arguments}`"]
    if (folder / "sets.csv").exists():
        sets = pd.read_csv(folder / "sets.csv")
        sections += ["Detections, mean F1 per image", format_table(sets, SHOWN_SET)]
        sections += ["Errors at IoU 0.5: shares of objects, and of detections", format_table(sets, SHOWN_ERRORS)]
    if (folder / "counts.csv").exists():
        counts = pd.read_csv(folder / "counts.csv")
        counts = counts[counts["score_floor"].isin(SHOWN_FLOORS)]
        shown = ["model", "set", "counted", "score_floor", "n_images", "median_count_error", "median_count_ratio"]
        sections += ["Counts of cavities", format_table(counts, [*shown, "count_spearman"])]
    if (folder / "verdict_sets.csv").exists():
        sections += ["Verdicts", format_table(pd.read_csv(folder / "verdict_sets.csv"), SHOWN_VERDICT)]
        sections += ["Flags", format_table(pd.read_csv(folder / "flags.csv"), ["set", "flag", "n_flagged", "share"])]
    if (folder / "calibrated_sets.csv").exists():
        table = pd.read_csv(folder / "calibrated_sets.csv")
        sections += ["Verdicts after calibration", format_table(table, ["n_labels", *SHOWN_VERDICT])]
    return "\n\n".join(sections) + "\n"


def format_table(table: pd.DataFrame, columns: list[str]) -> str:
    """A Markdown table of those `columns` that `table` has; floats with three digits, NaN as a dash."""
    columns = [name for name in columns if name in table]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in table[columns].itertuples(index=False):
        cells = ["-" if pd.isna(v) else f"{v:.3f}" if isinstance(v, float) else str(v) for v in row]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
