"""Conditions of steps, checked before any work and before results are replaced; errors name the remedy."""

from collections.abc import Collection

from emqa_dask import models
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.detectors import check_classes, name_detectors
from emqa_dask.pipeline.workspace.sample_names import make_grouping
from emqa_dask.pipeline.workspace.stages import list_downstream_tables, list_run_folders
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import files, marker, parts
from emqa_dask.store.layout import Workspace
from emqa_dask.tables import CATALOG


def verify_models(settings: Settings, steps: Collection[str]) -> None:
    """Raises models.ModelError, naming file and remedy, for a damaged model of detection or prediction."""
    networks = settings.detect.networks if "detect" in steps else ()
    models.verify_models([*networks, *(settings.predict.models if "predict" in steps else ())])
    if networks:
        name_detectors(settings.detect)
        models.verify_models([models.CONTENT_MODEL, models.PICTURE_MODEL, models.OBJECT_MODEL])
    if "featurise" in steps:
        models.verify_models([models.PICTURE_MODEL])
    if settings.detect.classes and "detect" in steps:
        check_classes(settings.detect)
    if "classify" in steps:
        models.verify_models([models.CONTENT_MODEL])


def verify_agreement(settings: Settings) -> None:
    """Raises SettingsError for a limit of the agreement of detectors in a run that does not have two of them."""
    limit = settings.triage.min_agreement
    if limit > 0 and (settings.detect.is_automatic or len(settings.detect.detectors) < 2):
        names = ", ".join(settings.detect.detectors)
        raise SettingsError(
            f"triage.min_agreement is {limit:g}: it needs two detectors that search each image, and detect.detectors "
            f"is {names}: name several with --detector, or set triage.min_agreement to 0"
        )


def verify_samples(settings: Settings, steps: Collection[str]) -> None:
    """Raises SettingsError for a missing or faulty CSV file of report.samples, which only the last step reads."""
    if "report" in steps:
        for grouping in settings.report.samples:
            make_grouping(grouping)


def require_tables(workspace: Workspace, archive: str | marker.Sources) -> None:
    """Raises ValueError for a missing catalog or ledger; only a run that reads the archive makes them again."""
    for uri in (workspace.catalog, workspace.micrographs):
        if not files.exists(uri) and not (uri == workspace.micrographs and _has_no_images(workspace)):
            raise ValueError(
                f"{files.redact(uri)} is missing or damaged: run "
                f"{marker.format_triage_command(workspace.uri, archive)}, which makes it again; "
                "results that are there are kept"
            )


def _has_no_images(workspace: Workspace) -> bool:
    """Whether the files of the catalog contain no micrographs."""
    return not any(
        rows["n_frames"].gt(0).any() for rows in parts.iterate_table(workspace.catalog, CATALOG, ["n_frames"])
    )


def require_parts(workspace: Workspace, settings: Settings) -> None:
    """Raises ValueError for missing parts, because a report without them would be incomplete or different."""
    if missing := find_missing_parts(workspace, settings):
        remainder_text = f" and {len(missing) - 1:,} more parts are" if missing[1:] else " is"
        raise ValueError(
            f"{files.redact(missing[0])}{remainder_text} missing: "
            f"{marker.format_command('retry', workspace.uri, '--failed')} makes them; the report was not changed"
        )


def find_missing_parts(workspace: Workspace, settings: Settings) -> list[str]:
    """URIs of missing parts from which existing parts or the existing report were made."""
    table_folders = list_run_folders(settings)
    has_report = files.exists(workspace.triage)
    finished = {table: set(parts.list_parts(workspace.uri, folder)) for table, folder in table_folders.items()}
    needed = {
        table: set().union(*(finished[other_table] for other_table in list_downstream_tables(table, table_folders)[1:]))
        for table in table_folders
    }
    return [
        workspace.part(table_folders[table], partition.name)
        for partition in micrograph_ledger.list_partitions(workspace)
        for table in table_folders
        if partition.name not in finished[table] and (has_report or partition.name in needed[table])
    ]
