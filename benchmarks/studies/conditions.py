"""Predicted loss by imaging conditions against the true F1 of an archive, and the advice against the archive redrawn.

    python -m benchmarks.studies.conditions --n 160 --specimens 24 --out conditions

All images are drawn (profile hrtem-particles). The quality model is calibrated on one archive. Its response surface is
of specimens that are in none. The loss is ranked on a second archive with mixed conditions, without its faulty images.
The advice is compared with the verdicts on the same specimens at twice the dose.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from emqa_dask import tables
from emqa_dask.cli import main as emqa
from emqa_dask.pipeline.workspace.labelled_micrographs import read_labelled
from emqa_dask.settings import Settings
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace

PROFILE = "hrtem-particles"
KEY = ["uri", "frame"]
LIMITS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of triage.trust_probability that the advice is compared at


def run_verb(*arguments: object) -> None:
    """Runs a verb of emqa; an error for a run that did not finish."""
    command = list(map(str, arguments))
    if emqa(command):
        raise RuntimeError(f"emqa {' '.join(command)} failed")


def make_workspaces(folder: Path, n: int, specimens: int, seed: int) -> None:
    """Synthesises three archives, of which two show the same specimens, and makes the workspaces from them."""
    for name, archive_seed, factor in (("train", seed, 1), ("mixed", seed + 1, 1), ("twice", seed + 1, 2)):
        command = ("synthesise", folder / name, "--profile", PROFILE, "--n", n, "--seed", archive_seed)
        run_verb(*command, "--dose-factor", factor)
    triage_archives(folder, specimens, seed)


def triage_archives(folder: Path, specimens: int, seed: int, grid: Sequence[object] = ()) -> None:
    """Calibrates on the archive `train`, studies the conditions, and triages `mixed` and `twice` with the result.

    grid: options of the study that set its grid; the default grid without any.
    """
    local = ("--scheduler", "in-process")
    root = folder / "train.emqa"
    run_verb("triage", folder / "train", "--workspace", root, "--template", PROFILE, *local)
    run_verb("calibrate", root, folder / "train.truth" / "annotations.json")
    settings = ("--settings", root / "settings.toml")
    command = ("study", "conditions", root / "models" / "log", "--specimens", specimens, "--seed", seed, *grid)
    run_verb(*command, *settings, "--out", folder / "study")
    models = f'predict.models=["{folder}/study-model"]'
    for name in ("mixed", "twice"):
        run_verb("triage", folder / name, "--workspace", folder / f"{name}.emqa", *settings, *local, "--set", models)


def read_archive(folder: Path, name: str) -> tuple[pd.DataFrame, Settings]:
    """Rows of tables.TRIAGE of the images without a fault, with their `true_f1`, and the settings."""
    root = str(folder / f"{name}.emqa")
    workspace = Workspace(root)
    settings = stored_settings.read_settings(root)
    labels = [str(folder / f"{name}.truth" / "annotations.json")]
    quality = read_labelled(workspace, settings, labels).compute_quality(
        "log", settings.featurise.score_floor, 0.1, "greedy"
    )
    faults = pd.read_csv(folder / f"{name}.truth" / "faults.csv", keep_default_na=False)
    rows = parts.load_table(workspace.triage, tables.TRIAGE).dropna(subset="micrograph_id")
    rows = rows.merge(faults.rename(columns={"file": "uri"})[[*KEY, "fault"]], on=KEY)
    rows = rows[rows["fault"] == ""]
    return rows.merge(quality[["micrograph_id", "true_f1"]], on="micrograph_id"), settings


def read_held_out(folder: Path) -> dict[str, float]:
    """How well the study predicts points of the grid that were held out."""
    summary = json.loads((folder / "study" / "summary.json").read_text())
    return {name: summary[name] for name in ("held_out_spearman", "held_out_mae", "n_points")}


def compare_archives(folder: Path) -> tuple[dict[str, float], pd.DataFrame]:
    """Rank correlation of the predicted loss, and compare_advice()."""
    mixed, _ = read_archive(folder, "mixed")
    twice, _ = read_archive(folder, "twice")
    known_rows = mixed.dropna(subset=["predicted_loss", "true_f1"])
    figures = {
        "n_images": len(mixed),
        "n_known": len(known_rows),
        "spearman": float(spearmanr(known_rows["predicted_loss"], -known_rows["true_f1"]).statistic),
        "mean_loss": float(known_rows["predicted_loss"].mean()),
    }
    return figures, compare_advice(mixed.merge(twice, on=KEY, suffixes=("", "_twice")))


def compare_advice(pairs: pd.DataFrame) -> pd.DataFrame:
    """Advised and obtained share of images whose probability reaches each of LIMITS at twice the dose.

    pairs: images at their dose and, with columns that end in _twice, at twice the dose. Counted are those below the
    limit that twice the dose keeps in the grid.
    """
    rows = []
    for limit in LIMITS:
        low = pairs[pairs["f1_probability"].lt(limit) & pairs["f1_probability_at_twice_dose"].notna()]
        advised_share = float(low["f1_probability_at_twice_dose"].ge(limit).mean())
        obtained_share = float(low["f1_probability_twice"].ge(limit).mean())
        rows.append((limit, len(low), advised_share, obtained_share))
    return pd.DataFrame(rows, columns=["limit", "n_images", "advised_share", "obtained_share"])


def run() -> None:
    """Makes the workspaces unless they are there, and prints what was measured as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=160)
    parser.add_argument("--specimens", type=int, default=24)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--out", type=Path, default=Path("conditions"))
    options = parser.parse_args()
    if not (options.out / "twice.emqa" / "triage.parquet").is_file():
        make_workspaces(options.out.absolute(), options.n, options.specimens, options.seed)
    held_out = read_held_out(options.out)
    figures, advice = compare_archives(options.out.absolute())
    print(json.dumps({**held_out, **figures}, indent=1))
    print(advice.round(3).to_string(index=False))


if __name__ == "__main__":
    run()
