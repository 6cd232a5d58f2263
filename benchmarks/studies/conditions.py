"""Predicted loss by imaging conditions against the true F1 of an archive, and the advice against the archive redrawn.

    python -m benchmarks.studies.conditions --n 160 --specimens 24 --out conditions

All images are drawn (profile hrtem-particles). The quality model is calibrated on one archive. Its response surface is
of specimens that are in none. The loss is ranked on a second archive with mixed conditions, without its faulty images.
The advice is compared with the verdicts on the same specimens at twice the dose.
"""

import argparse
import json
from pathlib import Path

import pandas as pd
from scipy.stats import spearmanr

from emqa_dask import tables
from emqa_dask.cli import main as emqa
from emqa_dask.pipeline.commands.dose_advice import DoseAdvice, select_low_f1
from emqa_dask.pipeline.workspace.labelled_micrographs import read_labelled
from emqa_dask.settings import Settings
from emqa_dask.store import parts, stored_settings
from emqa_dask.store.layout import Workspace

PROFILE = "hrtem-particles"
KEY = ["uri", "frame"]


def run_verb(*arguments: object) -> None:
    """Runs a verb of emqa; an error for a run that did not finish."""
    command = list(map(str, arguments))
    if emqa(command):
        raise RuntimeError(f"emqa {' '.join(command)} failed")


def make_workspaces(folder: Path, n: int, specimens: int, seed: int) -> None:
    """Synthesises, triages, calibrates and studies; archives of 8 images or more have other specimens by the seed."""
    for name, archive_seed, factor in (("train", seed, 1), ("mixed", seed + 1, 1), ("twice", seed + 1, 2)):
        command = ("synthesise", folder / name, "--profile", PROFILE, "--n", n, "--seed", archive_seed)
        run_verb(*command, "--dose-factor", factor)
    local = ("--scheduler", "in-process")
    root = folder / "train.emqa"
    run_verb("triage", folder / "train", "--workspace", root, "--template", PROFILE, *local)
    run_verb("calibrate", root, folder / "train.truth" / "annotations.json")
    settings = ("--settings", root / "settings.toml")
    command = ("study", "conditions", root / "models" / "log", "--specimens", specimens, "--seed", seed)
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


def compare_archives(folder: Path) -> dict[str, float]:
    """Rank correlation of the predicted loss, and advised against obtained share of trusted images."""
    mixed, settings = read_archive(folder, "mixed")
    twice, _ = read_archive(folder, "twice")
    rated_rows = mixed.dropna(subset=["predicted_loss", "true_f1"])
    low = select_low_f1(mixed).dropna(subset="f1_probability_at_twice_dose")
    advice = DoseAdvice().add(mixed, settings.triage.trust_probability)
    redrawn = low[KEY].merge(twice, on=KEY)
    f1_redrawn = low[[*KEY, "true_f1"]].merge(twice[[*KEY, "true_f1"]], on=KEY, suffixes=("", "_twice"))
    return {
        "n_images": len(mixed),
        "n_known": len(rated_rows),
        "spearman": float(spearmanr(rated_rows["predicted_loss"], -rated_rows["true_f1"]).statistic),
        "spearman_predicted_f1": float(spearmanr(rated_rows["predicted_f1"], rated_rows["true_f1"]).statistic),
        "mean_loss": float(rated_rows["predicted_loss"].mean()),
        "n_low": len(low),
        "advised_share": advice.n_gained / max(advice.n_low, 1),
        "obtained_share": float(redrawn["verdict"].eq("trust").mean()),
        "obtained_share_f1": float(redrawn["f1_probability"].ge(settings.triage.trust_probability).mean()),
        "true_f1_gain": float((f1_redrawn["true_f1_twice"] - f1_redrawn["true_f1"]).mean()),
        "n_trusted": int(mixed["verdict"].eq("trust").sum()),
        "n_trusted_twice": int(twice["verdict"].eq("trust").sum()),
    }


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
    summary = json.loads((options.out / "study" / "summary.json").read_text())
    held_out = {name: summary[name] for name in ("held_out_spearman", "held_out_mae", "n_points")}
    print(json.dumps({**held_out, **compare_archives(options.out.absolute())}, indent=1))


if __name__ == "__main__":
    run()
