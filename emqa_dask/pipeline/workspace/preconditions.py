"""What steps need before they begin: an error with the remedy, before any work and before good results are replaced."""

from collections.abc import Collection

from emqa_dask import models
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import names_of
from emqa_dask.pipeline.workspace.stages import downstream, folders
from emqa_dask.settings import Settings
from emqa_dask.store import files, layout, marker, parts
from emqa_dask.tables import CATALOG


def verify_models(settings: Settings, steps: Collection[str]) -> None:
    """models.ModelError, naming the file and the remedy, unless the models of detection and prediction are whole."""
    networks = settings.detect.networks if "detect" in steps else ()
    models.verify_models([*networks, *(settings.predict.models if "predict" in steps else ())])
    if networks:
        names_of(settings.detect)
    if "classify" in steps:
        models.verify_models([models.CONTENT_MODEL])


def require_tables(root: str, source: str) -> None:
    """ValueError where the catalog or the ledger is gone: only a run that reads the archive makes them again."""
    for uri in (layout.catalog_uri(root), layout.micrographs_uri(root)):
        if not files.exists(uri) and not (uri == layout.micrographs_uri(root) and _has_no_images(root)):
            raise ValueError(
                f"{files.redact(uri)} is missing or damaged: run "
                f"{marker.format_triage_command(root, source)}, which makes it "
                "again; results that are there are kept"
            )


def _has_no_images(root: str) -> bool:
    """Are there no micrographs in the files of the catalog?"""
    return not any(
        rows["n_frames"].gt(0).any() for rows in parts.iterate_table(layout.catalog_uri(root), CATALOG, ["n_frames"])
    )


def require_parts(root: str, settings: Settings) -> None:
    """ValueError where find_missing_parts() finds any: a report without them would say less, or something else."""
    if missing := find_missing_parts(root, settings):
        more = f" and {len(missing) - 1:,} more parts are" if missing[1:] else " is"
        raise ValueError(
            f"{files.redact(missing[0])}{more} missing: "
            f"{marker.format_command('retry', root, '--failed')} makes them; the "
            "report was not changed"
        )


def find_missing_parts(root: str, settings: Settings) -> list[str]:
    """URIs of parts that are missing, and from which others or the report that is there were made."""
    where = folders(settings)
    has_report = files.exists(layout.triage_uri(root))
    there = {table: set(parts.list_parts(root, folder)) for table, folder in where.items()}
    needed = {table: set().union(*(there[other] for other in downstream(table, where)[1:])) for table in where}
    return [
        layout.part_uri(root, where[table], partition.name)
        for partition in micrograph_ledger.every_partition(root)
        for table in where
        if partition.name not in there[table] and (has_report or partition.name in needed[table])
    ]
