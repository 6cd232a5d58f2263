"""From tables to people: triage.parquet, triage.csv, flags.parquet, the page, and provenance.json."""

import dataclasses
import hashlib
import importlib.metadata
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from emqa_dask import __version__, models, tables
from emqa_dask.pipeline.commands.report_verdicts import decide_batches
from emqa_dask.pipeline.workspace import provenance
from emqa_dask.pipeline.workspace.stages import SCHEMAS, folders
from emqa_dask.report import page, spreadsheet
from emqa_dask.report.classes import Classes, ClassifierSection, most_drifted
from emqa_dask.report.overview import Overview
from emqa_dask.settings import Settings, digest, dump
from emqa_dask.store import files, layout, parts
from emqa_dask.triage.rules import CLASSIFIER_CODES, RULES

PACKAGES = ("dask", "distributed", "zarr", "numpy", "scipy", "opencv-python-headless", "scikit-learn", "rosettasciio")
TOGETHER = 24  # partitions whose shown images' detections are in memory at a time
DRAWN = {  # of the micrographs that are shown
    "detections": ["micrograph_id", "detector", "y0", "x0", "y1", "x1", "score"],
    "thumbnails": ["micrograph_id", "jpeg"],
    "regions": ["micrograph_id", "y0", "x0", "height_px", "width_px", "predictive_entropy_nats"],
}


class RunFacts(NamedTuple):
    """What the page and provenance.json say of the run."""

    started: float  # s since the epoch
    seconds: dict[str, float]  # of workers, by stage
    failures: pd.DataFrame  # rows of tables.FAILURES


def report(root: str, source: str, settings: Settings, run_facts: RunFacts) -> bool:
    """Decide the verdicts and write the tables and the page; False where all of them are there already.

    Memory does not grow with the archive but for some 50 bytes per micrograph.
    """
    key = report_key(root, settings, run_facts.failures)
    before = provenance.read(root)
    if before.get("report_key") == key and not provenance.damaged_outputs(root, before):
        return False
    overview = Overview(settings.report.max_rows)
    classes = Classes()
    with ExitStack() as stack:
        write_triage = stack.enter_context(parts.open_table_writer(layout.triage_uri(root), tables.TRIAGE))
        write_flags = stack.enter_context(parts.open_table_writer(layout.flags_uri(root), tables.FLAGS))
        csv = stack.enter_context(files.write_whole(layout.triage_csv_uri(root)))
        csv.write(spreadsheet.triage_csv(tables.empty(tables.TRIAGE)).encode())
        for triage, flags, classified in decide_batches(root, settings, run_facts.failures):
            write_triage(triage)
            write_flags(flags)
            csv.write(spreadsheet.triage_csv(triage, header=False).encode())
            overview.add(triage)
            classes.add(triage, classified)
    section = _of_sessions(root, settings, classes)
    command = shlex.join(["emqa", *sys.argv[1:]]) if sys.argv[0].endswith(("emqa", "__main__.py")) else "Python"
    facts = run_facts._asdict() | {
        "archive": files.redact(source),
        "workspace": files.redact(root),
        "command": files.redact(command),
        "n_files": parts.count_rows(layout.catalog_uri(root)),
        "n_bytes": sum(
            int(t["size_bytes"].sum()) for t in _iter(layout.catalog_uri(root), tables.CATALOG, ["size_bytes"])
        ),
        "versions": versions(),
        "settings": files.redact(dump(settings)),
        "models": _card_figures(settings),
    }
    with files.write_whole(layout.report_uri(root)) as stream:
        for text in _page(root, overview, settings, facts, section):
            stream.write(text.encode())
    made = {name: facts[name] for name in ("command", "archive", "started", "seconds", "versions")}
    made |= {
        "finished": time.time(),
        "host": platform.node(),
        "folders": folders(settings),
        "quality_models": {name: models.digest_card(models.locate_model(name)) for name in settings.predict.models},
        "networks": {name: models.digest_card(models.locate_model(name)) for name in _networks(settings)},
        "verdicts": dict(overview.verdicts.most_common()),
        "first_reasons": {verdict: dict(of.most_common()) for verdict, of in overview.first_reasons.items()},
        "report_key": key,
    }
    provenance.write(root, made, _outputs(root, settings))
    return True


def _outputs(root: str, settings: Settings) -> list[str]:
    """What the report consists of."""
    of_classifiers = [layout.drifts_uri(root), layout.sessions_uri(root)] if settings.classify.model else []
    return [
        layout.triage_uri(root),
        layout.flags_uri(root),
        layout.triage_csv_uri(root),
        layout.report_uri(root),
        *of_classifiers,
    ]


def report_key(root: str, settings: Settings, failures: pd.DataFrame) -> str:
    """Names all that the report depends on: the tables' folders and parts, catalog, ledger, failures, settings.

    It does not read the large ones: parts are never changed, and catalog and ledger not without a change of their date.
    """
    where = folders(settings)
    records = (settings.flags, settings.triage, settings.report)
    state = [*map(dataclasses.asdict, records), __version__]
    for table in where:
        names = parts.list_parts(root, where[table])
        state.append([len(names), hashlib.sha256("\n".join(names).encode()).hexdigest()])
    state += [provenance.version_of(uri) for uri in (layout.catalog_uri(root), layout.micrographs_uri(root))]
    state.append(hashlib.sha256(failures.to_json(orient="records").encode()).hexdigest())
    return digest(where, state)


def _networks(settings: Settings) -> tuple[str, ...]:
    """Networks of the run: detectors, then the classifier."""
    return (*settings.detect.networks, *filter(None, [settings.classify.model]))


def versions() -> dict[str, str]:
    """emqa_dask, Python and the packages that results depend on."""
    found = {"emqa_dask": __version__, "python": platform.python_version(), "platform": platform.platform()}
    return found | {name: importlib.metadata.version(name) for name in PACKAGES}


_iter = parts.iterate_table


def _of_sessions(root: str, settings: Settings, classes: Classes) -> ClassifierSection | None:
    """Test whether sessions have drifted, write drifts and sessions, and give the page's section on the classifier."""
    if not settings.classify.model:
        return None
    from emqa_dask.pipeline.workspace.sessions import drifting  # a run without a classifier does well without these
    from emqa_dask.uncertainty.drift import summarise_over_time

    found = drifting(root, settings)
    with parts.open_table_writer(layout.drifts_uri(root), tables.DRIFTS) as write:
        write(found.drifts)
    with parts.open_table_writer(layout.sessions_uri(root), tables.SESSIONS) as write:
        write(found.sessions)
    quantity = most_drifted(found.drifts)
    kinds = dict(zip(found.sessions["cohort"], found.sessions["shift"]))
    return classes.section(
        found.drifts, quantity, summarise_over_time(found.values, quantity) if quantity else None, kinds
    )


def _page(
    root: str, overview: Overview, settings: Settings, facts: dict, section: ClassifierSection | None
) -> Iterator[str]:
    """The page in pieces; of the triage table it reads a column at a time, and the rows that are shown."""

    def column(name: str) -> NDArray:
        pieces = _iter(layout.triage_uri(root), tables.TRIAGE, [name])
        return np.concatenate([np.zeros(0), *(rows[name].to_numpy(float, na_value=np.nan) for rows in pieces)])

    shown = [tables.empty(tables.TRIAGE)]
    positions = overview.shown()
    n = 0
    for rows in _iter(layout.triage_uri(root), tables.TRIAGE):
        here = positions[(positions >= n) & (positions < n + len(rows))]
        shown.append(rows.iloc[here - n])
        n += len(rows)
    shown = pd.concat(shown, ignore_index=True)
    boxes, pictures, maps = _drawings(root, shown, settings)
    rules = [rule for rule in RULES if section or rule.code not in CLASSIFIER_CODES]
    return page.render(overview, column, shown, boxes, pictures, facts, settings.triage, rules, section, maps)


def _drawings(
    root: str, shown: pd.DataFrame, settings: Settings
) -> tuple[dict[str, str], dict[str, bytes], dict[str, str]]:
    """Boxes, thumbnails and entropy maps of the micrographs in `shown` that have any, some partitions at a time."""
    ids = shown["micrograph_id"].dropna()
    where = folders(settings)
    of_partition = {}
    for rows in _iter(layout.micrographs_uri(root), tables.MICROGRAPHS, ["micrograph_id", "partition"]):
        rows = rows[rows["micrograph_id"].isin(ids)]
        for name, group in rows.groupby("partition"):
            of_partition.setdefault(name, []).extend(group["micrograph_id"])
    boxes = {}
    pictures = {}
    maps = {}
    detector = shown.dropna(subset="micrograph_id").set_index("micrograph_id")["detector"]
    names = list(of_partition)
    there = {table: set(parts.list_parts(root, where[table])) for table in DRAWN if table in where}
    classes = models.read_card(models.locate_model(settings.classify.model))["classes"] if "regions" in there else ()
    for together in (names[k : k + TOGETHER] for k in range(0, len(names), TOGETHER)):
        here = [one for name in together for one in of_partition[name]]
        found, jpegs, *regions = (
            parts.read_table(
                root,
                where[table],
                SCHEMAS[table],
                DRAWN[table],
                [name for name in together if name in there[table]],
                ("micrograph_id", here),
            )
            for table in there
        )
        for rows in regions:
            maps |= page.mapped(shown, rows, np.log(len(classes)))
        found = found[found["detector"].to_numpy() == detector.reindex(found["micrograph_id"]).to_numpy()]
        boxes |= page.drawn(shown[shown["micrograph_id"].isin(here)], found)  # those that the row tells of
        jpegs = jpegs.dropna()
        pictures |= dict(zip(jpegs["micrograph_id"], jpegs["jpeg"], strict=True))
    return boxes, pictures, maps


def _card_figures(settings: Settings) -> dict[str, str]:
    """The models' cards as text: what each was fitted on, for which detector, and how good it was found to be."""
    figures = {}
    for name in dict.fromkeys((*_networks(settings), *settings.predict.models)):
        card = models.read_card(models.locate_model(name))
        own = {key: str(value) for key, value in card.items() if not isinstance(value, dict)}
        for part in ("forest", "quality_model", "training", "matching", "ensemble"):
            plain = {k: v for k, v in card.get(part, {}).items() if not isinstance(v, list | dict)}
            own |= {key: str(value) for key, value in plain.items()}
        for key, of in card.get("measured", {}).items():
            told = of.items() if isinstance(of, dict) else [(key, of)]
            told = [(k, v) for k, v in told if not isinstance(v, list)]
            own[f"measured {key}"] = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in told)
        figures |= {f"{card.get('name', name)}: {key}": value for key, value in own.items() if key != "name"}
    return figures
