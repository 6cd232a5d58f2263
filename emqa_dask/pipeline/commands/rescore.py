"""emqa rescore: new verdicts from stored detections. No detector runs, and no pixel is read."""

from collections.abc import Callable

from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.workspace import micrograph_ledger
from emqa_dask.pipeline.workspace.check_functions import resolve_checks
from emqa_dask.pipeline.workspace.stages import list_run_folders
from emqa_dask.settings import Settings, SettingsError
from emqa_dask.store import marker, parts, stored_settings
from emqa_dask.store.layout import Workspace

STEPS = ("featurise", "predict", "measure", "report")  # all that read no pixel


def rescore(root: str, settings: Settings, say: Callable[[str], None] = print) -> int:
    """Exit code of a run that makes all tables and verdicts that need no pixel, with `settings`.

    Score floor, models and limits may have changed; no pixel is read. Raises SettingsError when [detect] or another
    setting that needs pixels has changed: `emqa triage` is needed then. Exit codes are those of `triage.run`.
    """
    workspace = Workspace(root)
    sources = marker.read_sources(root)
    settings = resolve_checks(settings, is_forced=False)
    old_settings = stored_settings.read_settings(root)
    old_folders = list_run_folders(old_settings)
    new_folders = list_run_folders(settings)
    for table in ("detections", "embeddings", "features", "probabilities", "custom_checks"):
        if table in new_folders and old_folders.get(table) != new_folders[table]:
            raise SettingsError(
                f"these settings change the {table}, and rescore reads no pixel: run "
                f"{marker.format_triage_command(root, sources)} with the same settings"
            )
    n_lacking = 0
    needed = [table for table in ("features", "detections", "embeddings") if table in new_folders]
    finished = set.intersection(*(set(parts.list_parts(root, new_folders[table])) for table in needed))
    for partition in micrograph_ledger.list_partitions(workspace):
        n_lacking += partition.name not in finished
    if n_lacking:
        raise ValueError(
            f"{n_lacking} partitions of {root} lack detections or features of these settings and models: run "
            f"{marker.format_triage_command(root, sources)} with the same settings"
        )
    return run(None, root, settings, steps=STEPS, is_rescoring=True, say=say)
