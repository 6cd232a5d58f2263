"""Write stage_outputs.json, the stored digests of every stage's output: python -m tests.pipeline.stage_outputs

Run it after a stage's version was raised because its output is meant to change.
"""

import hashlib
import io
import json
import re
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile
from PIL import Image

from emqa_dask.pipeline.commands.train_domain import DomainOptions
from emqa_dask.pipeline.commands.train_ensemble import train_ensemble
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace.stages import SCHEMAS, STAGES, list_run_folders
from emqa_dask.settings import Settings, replace
from emqa_dask.store import parts, stored_settings
from emqa_dask.train.ensemble_plan import EnsembleOptions
from emqa_dask.train.schedules import MemberSchedule
from emqa_dask.windows import WindowSettings

STORED = Path(__file__).with_suffix(".json")
SIZE_PX = 96
CHECK_MODULE = "tests.pipeline.stage_outputs"  # also where this module runs as __main__


def make_archive(root: Path) -> Path:
    """Six images with known blobs on stripes, 16 bit, made by arithmetic alone."""
    root.mkdir(parents=True)
    y, x = np.mgrid[:SIZE_PX, :SIZE_PX].astype(float)
    for k in range(6):
        image = 20000 + 3000 * np.sin(2 * np.pi * (x if k % 2 else y) / (7 + k))
        for n in range(5):
            row = 14 + (37 * n + 11 * k) % 70
            column = 12 + (53 * n + 29 * k) % 72
            image += 15000 * np.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * (3 + n / 2) ** 2))
        tifffile.imwrite(root / f"{k}.tif", image.astype(np.uint16))
    return root


def make_model(folder: Path) -> Path:
    """A tiny ensemble for two directions of stripes, trained in seconds."""
    root = folder / "labelled"
    root.mkdir()
    rows = []
    y, x = np.mgrid[:64, :64].astype(float)
    for k in range(100):
        wave = np.sin(2 * np.pi * (x if k % 2 else y) / (6 + k % 5) + k)
        noise = np.random.default_rng(k).normal(0, 2000, wave.shape)
        tifffile.imwrite(root / f"{k}.tif", (20000 + 6000 * wave + noise).astype(np.uint16))
        split = "train" if k < 30 else "validation" if k < 80 else "test"
        rows.append({"uri": f"{k}.tif", "label": ("level", "upright")[k % 2], "split": split})
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
    schedule = MemberSchedule(epochs=2, batch=32, halve_every=3)
    architecture = {"depth": 10, "widen": 1}
    window_settings = WindowSettings(32, max_windows=4)
    train_ensemble(
        str(root / "labels.csv"),
        folder / "stripes",
        replace(Settings(), {"run": {"scheduler": "in-process"}}),
        EnsembleOptions(window_settings, n_members=2, architecture=architecture, schedule=schedule),
        windows_per_image=4,
        domain_options=DomainOptions(examples=40),
        say=lambda text: None,
    )
    return folder / "stripes"


def measure_mean(image, header) -> float:
    """The custom check of the archive."""
    return float(image.mean())


def digest_table(rows: pd.DataFrame) -> dict[str, list]:
    """Column -> [values, sum, weighted sum] of numbers, which a change in one row moves; of ids a checksum, too."""
    digests: dict[str, list] = {}
    for name in rows.columns:
        values = rows[name].dropna()
        if name in ("micrograph_id", "detector", "classifier"):
            text = "\n".join(values.astype(str))
            digests[name] = [len(values), int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)]
            continue
        numbers = [np.ravel(pd.to_numeric(np.ravel(value), errors="coerce")) for value in values]
        flat = np.concatenate([np.zeros(0), *numbers]).astype(float)
        flat = flat[np.isfinite(flat)]
        weights = 1 + np.arange(len(flat)) % 97 / 97
        digests[name] = [len(values), float(flat.sum()), float((flat * weights).sum())]
    return digests


def compute_digests(folder: Path) -> dict[str, dict]:
    """Stage -> its version and the digest of each of its tables, for a fixed small archive; of JPEG its pixels."""
    archive = make_archive(folder / "archive")
    checks = {"mean": {"function": f"{CHECK_MODULE}:measure_mean", "above": 1e9}}
    changes = {"classify": {"model": str(make_model(folder))}, "flags": {"custom": checks}}
    changes["predict"] = {"models": ["log-synthetic"]}  # the models of the default settings change without a stage
    settings = replace(Settings(), {"run": {"scheduler": "in-process"}, "detect": {"detectors": ["log"]}, **changes})
    root = str(folder / "workspace")
    run(str(archive), root, settings, say=lambda text: None)
    settings = stored_settings.read_settings(root)  # with the digest of the code of the check
    digests = {}
    table_folders = list_run_folders(settings)  # without embeddings: networks round otherwise on other processors
    for stage in STAGES:
        tables = {}
        for table in filter(table_folders.__contains__, stage.tables):
            rows = parts.read_table(root, table_folders[table], SCHEMAS[table])
            if "jpeg" in rows:
                rows["jpeg"] = [np.asarray(Image.open(io.BytesIO(jpeg)), float) for jpeg in rows["jpeg"]]
            tables[table] = digest_table(rows)
        digests[stage.name] = {"version": stage.version, "tables": tables}
    return digests


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        text = json.dumps(compute_digests(Path(name)), indent=1)
        text = re.sub(r"\[[^][{}]*\]", lambda found: " ".join(found[0].split()), text)  # a line for each column
        STORED.write_text(text + "\n")
