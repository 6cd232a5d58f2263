"""emqa tune log: settings of [detect] for each group of micrographs, chosen by rewards on a sample of the group.

A group has one instrument, magnification and folder, or the micrographs that a pattern selects. The settings file
gets a section [[cohorts]] for each group.
"""

from collections.abc import Callable

from emqa_dask.pipeline import PRELOAD
from emqa_dask.pipeline.commands import tune_log_files, tune_log_windows
from emqa_dask.pipeline.commands.tune_log_files import TunedGroup
from emqa_dask.pipeline.commands.tune_log_group import GroupTuning
from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
from emqa_dask.pipeline.tasks.tune_log_windows import search_window
from emqa_dask.pipeline.workspace.acquisition_groups import sample_groups
from emqa_dask.pipeline.workspace.tuning_references import find_references
from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Settings
from emqa_dask.store import marker
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]


def tune_log(root: str, out: str, settings: Settings, options: TuneOptions, say: Say = print) -> list[TunedGroup]:
    """The tuned groups of workspace `root`; writes `out`, the settings file that triage takes.

    Traces and figures are written to a folder beside it (<out without .toml>.tune). Settings are evaluated on Dask
    workers, `options.batch` at a time. A worker keeps the scale-space maxima of an image, so that settings which differ
    in threshold and overlap filter it once. With `options.windows` each window of the images is then searched by
    itself, and the settings file names the map of their settings. ValueError where rewards need a missing value and
    where images with windows differ in size; FileExistsError where `out` or the folder exists and is not from a tuning.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    options.check()
    tune_log_files.check_out(out)
    physics = options.read_physics()
    names = options.select_rewards()
    references = find_references(options.reference, workspace, settings) if options.reference else None
    micrograph_ids = references.micrograph_ids if references else None
    groups = sample_groups(workspace, options.images, options.cohorts, micrograph_ids)
    if options.windows is not None:
        for group in groups:
            tune_log_windows.check_sizes(group, options.windows)
    tuned = []
    with open_cluster(settings, (*PRELOAD, search_window.__module__), say) as client:
        for group in groups:
            objects = references.read_objects(group.rows) if references else [None] * len(group.rows)
            tuning = GroupTuning.prepare(root, group, objects, settings, options, physics, names, client, say)
            tuned.append(tuning.run())
            tune_log_files.write_results(out, settings, tuned, options.method)  # kept if the next group fails
    say(f"settings: {out}; figures and traces: {tune_log_files.locate_figures(out)}")
    return tuned
