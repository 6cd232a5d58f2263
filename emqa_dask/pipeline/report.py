"""From tables to people: verdicts, triage.parquet, triage.csv, the page, and provenance.json."""

import dataclasses
import hashlib
import importlib.metadata
import platform
import shlex
import sys
import time

import pandas as pd

from emqa_dask import __version__, models, tables
from emqa_dask.archive.headers import cohort_suspects
from emqa_dask.pipeline import ingest
from emqa_dask.pipeline.folders import SCHEMAS, folders
from emqa_dask.predict.duplicates import flag_duplicates
from emqa_dask.predict.flags import flag_images
from emqa_dask.report import page, spreadsheet
from emqa_dask.report.triage import judge
from emqa_dask.settings import Settings, digest, dump
from emqa_dask.store import files, layout, parts

PACKAGES = ("dask", "distributed", "zarr", "numpy", "scipy", "opencv-python-headless", "scikit-learn", "rosettasciio")


def report(root: str, source: str, settings: Settings, facts: dict) -> tuple[pd.DataFrame, bool]:
    """Judge everything and write the tables and the page; returns the triage table, and False where it stood already.

    `facts` are what the page and provenance.json tell beside it: started, seconds, failures.
    """
    key = report_key(root, settings)
    if files.exists(layout.report(root)) and _provenance(root).get("report_key") == key:
        return parts.load_table(layout.triage(root), tables.TRIAGE), False
    catalog = parts.load_table(layout.catalog(root), tables.CATALOG)
    micrographs = pd.concat(list(ingest.current(root)) or [tables.empty(tables.MICROGRAPHS)])
    micrographs = micrographs.sort_values(["uri", "frame"], ignore_index=True)
    micrographs["is_nm_per_pixel_suspect"] = cohort_suspects(micrographs["nm_per_pixel"], cohorts(micrographs))
    made = {table: _rows(root, table, settings, micrographs) for table in ("features", "predictions")}
    flags = pd.concat([flag_images(made["features"]), flag_duplicates(micrographs, made["features"])])
    triage = judge(catalog, micrographs, made["features"], made["predictions"], flags, settings.report)
    parts.write_table(layout.triage(root), triage, tables.TRIAGE)
    parts.write_table(layout.flags(root), flags, tables.FLAGS)
    parts.write_text(layout.triage_csv(root), spreadsheet.triage_csv(triage))
    facts = facts | {
        "archive": source,
        "workspace": root,
        "command": shlex.join(["emqa", *sys.argv[1:]]) if sys.argv[0].endswith(("emqa", "__main__.py")) else "Python",
        "n_files": len(catalog),
        "n_bytes": int(catalog["size_bytes"].sum()),
        "versions": versions(),
        "settings": dump(settings),
        "forest": _card_figures(settings),
    }
    parts.write_text(layout.report(root), _page(root, triage, micrographs, settings, facts))
    provenance = {name: facts[name] for name in ("command", "archive", "started", "seconds", "versions")}
    provenance |= {
        "finished": time.time(),
        "host": platform.node(),
        "folders": folders(settings),
        "forest": {"name": settings.predict.forest, "sha256": models.digest(models.locate(settings.predict.forest))},
        "verdicts": triage["verdict"].value_counts().to_dict(),
        "report_key": key,
    }
    parts.write_json(layout.provenance(root), provenance)
    return triage, True


def report_key(root: str, settings: Settings) -> str:
    """Names all that the report depends on: the tables' folders and parts, the catalog, the report's settings."""
    where = folders(settings)
    state = [dataclasses.asdict(settings.report), __version__]
    state += [parts.part_names(root, where[table]) for table in SCHEMAS]
    for uri in (layout.catalog(root), layout.micrographs(root)):
        state.append(hashlib.sha256(files.read_bytes(uri)).hexdigest())
    return digest(where, state)


def _provenance(root: str) -> dict:
    return parts.read_json(layout.provenance(root)) if files.exists(layout.provenance(root)) else {}


def cohorts(micrographs: pd.DataFrame) -> pd.Series:
    """Images that should share a pixel size: same instrument, magnification and shape; null where none is known."""
    instrument, magnification = micrographs["instrument"], micrographs["magnification"]
    shape = micrographs["height_px"].astype(str) + "x" + micrographs["width_px"].astype(str)
    label = instrument.fillna("").astype(str) + "|" + magnification.astype(str) + "|" + shape
    return label.where(instrument.notna() | magnification.notna())


def versions() -> dict[str, str]:
    """emqa_dask, Python and the packages that results depend on."""
    found = {"emqa_dask": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


def _rows(root: str, table: str, settings: Settings, micrographs: pd.DataFrame) -> pd.DataFrame:
    """Rows of `micrographs` in the parts of `table`; parts that are not there are left out."""
    folder = folders(settings)[table]
    there = set(parts.part_names(root, folder))
    names = sorted(set(micrographs["partition"]) & there)
    rows = parts.read_table(root, folder, SCHEMAS[table], partitions=names)
    return rows[rows["micrograph_id"].isin(micrographs["micrograph_id"])].reset_index(drop=True)


def _page(root: str, triage: pd.DataFrame, micrographs: pd.DataFrame, settings: Settings, facts: dict) -> str:
    shown = page.choose_rows(triage, settings.report.max_rows)["micrograph_id"]
    shown = micrographs[micrographs["micrograph_id"].isin(shown)]
    detections = _rows(root, "detections", settings, shown)
    return page.render(triage, detections, _rows(root, "thumbnails", settings, shown), facts, settings.report)


def _card_figures(settings: Settings) -> dict[str, str]:
    """The forest's card as text: what it was fitted on, for which detector, and how good it was found to be."""
    card = models.load_card(models.locate(settings.predict.forest))
    figures = {key: str(value) for key, value in card.items() if not isinstance(value, dict)}
    figures |= {key: str(value) for key, value in card.get("forest", {}).items() if not isinstance(value, list)}
    for key, of in card.get("measured", {}).items():
        figures[f"measured {key}"] = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in of.items())
    return figures
