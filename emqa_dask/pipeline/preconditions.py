"""What steps need before they begin: an error with the remedy, before any work and before good results are replaced."""

from collections.abc import Collection

from emqa_dask import models
from emqa_dask.pipeline import ingest
from emqa_dask.pipeline.detectors import names_of
from emqa_dask.pipeline.folders import folders
from emqa_dask.settings import Settings
from emqa_dask.store import files, layout, parts


def verify_models(settings: Settings, steps: Collection[str]) -> None:
    """models.ModelError, naming the file and the remedy, unless the models of detection and prediction are whole."""
    networks = settings.detect.networks if "detect" in steps else ()
    models.verify([*networks, *(settings.predict.forests if "predict" in steps else ())])
    if networks:
        names_of(settings.detect)
    if "classify" in steps:
        models.verify([models.CONTENT])


def require_tables(root: str, source: str) -> None:
    """ValueError where the catalog or the ledger is gone: only a run that reads the archive makes them again."""
    for uri in (layout.catalog(root), layout.micrographs(root)):
        if not files.exists(uri):
            raise ValueError(
                f"{files.redact(uri)} is missing or damaged: run `emqa triage {files.redact(source)} --workspace "
                f"{files.redact(root)}`, which makes it again; results that are there are kept"
            )


def require_parts(root: str, settings: Settings) -> None:
    """ValueError where a part is missing, and a report is there that was made with it: that one is kept."""
    if not files.exists(layout.triage(root)):
        return
    names = [partition.name for partition in ingest.every_partition(root)]
    missing = []
    for folder in folders(settings).values():
        there = set(parts.part_names(root, folder))
        missing += [layout.part(root, folder, name) for name in names if name not in there]
    if missing:
        more = f" and {len(missing) - 1:,} more parts are" if missing[1:] else " is"
        raise ValueError(
            f"{files.redact(missing[0])}{more} missing: `emqa retry {files.redact(root)} --failed` makes them; the "
            "report that is there was not changed"
        )
