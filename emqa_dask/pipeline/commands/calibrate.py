"""emqa calibrate: fit what decides about trust to a few labelled images of a run. No detector runs."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from emqa_dask import models, output_folders
from emqa_dask.number_ranges import check_number
from emqa_dask.pipeline.commands.calibrate_fit import calibrate_run
from emqa_dask.pipeline.commands.calibrate_report import print_report, write_model
from emqa_dask.pipeline.workspace.detectors import name_detectors
from emqa_dask.pipeline.workspace.labelled_micrographs import (
    LabelledMicrographs,
    list_searched,
    read_labelled,
    select_micrographs,
)
from emqa_dask.settings import Settings, replace
from emqa_dask.store import files, lock, marker, stored_settings
from emqa_dask.store.layout import Workspace

Say = Callable[[str], None]
MODELS = "models"  # folder of the workspace


def calibrate(
    root: str,
    labels: str | Sequence[str],
    settings: Settings,
    *,
    detectors: Sequence[str] = (),
    iou_threshold: float | None = None,
    out: str = "",
    say: Say = print,
) -> int:
    """Exit code 0. Fits detector, score floor, quality model and limit of trust to the micrographs that `labels` list.

    The word `reviewed` among `labels` stands for the decisions of the workspace.

    Detector (of the run, or of those named) and score floor are those with the highest mean F1, where the labels can
    tell; see predict.detection_choice. Their quality model, with its errors on held-out images, groups and sessions, is
    written as the model directory <out>/<detector> (default of `out`: the workspace's models/), with the figure
    trust.png. The limit of trust is that of predict.trust_limit. All of them enter the workspace's settings, so that
    `rescore` and every later run use them.
    Where each session has a detector of its own, the labelled micrographs that one of them searched (of those named,
    the one that searched most) fit its model alone; score floor and limit of trust stay.
    No detector runs. Boxes are matched by IoU and rule of the present model, or by `iou_threshold`; points and counts
    as in predict.sparse_truth. Raises ValueError, naming images and rows, for labels of other micrographs, labels that
    contradict each other, a detector that the run does not have, and less than 8 labelled images with detections.
    """
    workspace = Workspace(root)
    marker.read_source(root)
    if iou_threshold is not None:
        check_number("--iou", iou_threshold, 0, 1)
    folder = _locate_output(workspace, out)
    directories = {name: _name_directory(folder, name) for name in _select_detectors(settings, detectors)}
    output_folders.check_folder(*directories.values())
    with lock.hold_lock(root, say):
        labelled = read_labelled(workspace, settings, [labels] if isinstance(labels, str) else labels)
        for line in (*labelled.lines, labelled.describe()):
            say(line)
        if settings.detect.is_automatic:
            labelled, name = _select_searched(workspace, labelled, settings, list(directories), say)
            directories = {name: directories[name]}
        calibrated = calibrate_run(workspace, labelled, settings, list(directories), iou_threshold)
        directory = directories[calibrated.choice.detector]
        write_model(directory, calibrated, labelled)
        print_report(calibrated, labelled, settings, say)
        other_models = _list_other_models(settings, calibrated.choice.detector)
        changes: dict[str, dict] = {"predict": {"models": [str(directory), *other_models]}}
        changes["featurise"] = {"score_floor": calibrated.choice.score_floor}
        if settings.detect.is_automatic:
            say(f"the limit of trust stays {settings.triage.trust_probability:g}: it holds for all sessions")
        else:
            changes["triage"] = {"trust_probability": calibrated.trust.limit}
        stored_settings.write_settings(root, replace(settings, changes))
    say(f"model: {directory}; see what it changes: emqa rescore {root}")
    return 0


def _select_searched(
    workspace: Workspace, labelled: LabelledMicrographs, settings: Settings, detectors: Sequence[str], say: Say
) -> tuple[LabelledMicrographs, str]:
    """The labelled micrographs that one detector searched, and its name: of `detectors` the one that searched most.

    Of a run with a detector for each session. Raises ValueError where none of `detectors` searched a labelled one.
    """
    searched = list_searched(workspace, labelled, settings)
    counts = Counter(searched.values())
    text = ", ".join(f"{count} by {name}" for name, count in counts.most_common())
    name = max(detectors, key=lambda detector: counts[detector])
    if not counts[name]:
        raise ValueError(
            f"--detector {name}: searched no labelled micrograph; each session has a detector of its own, and the "
            f"labelled ones were searched {text}"
        )
    say(f"each session has a detector of its own; the labelled micrographs were searched {text}")
    others = [f"--detector {other}" for other in counts if other != name]
    hint = f"; for the others give {' or '.join(others)}" if others else ""
    say(f"these labels fit the predictions of {name} at the present score floor{hint}")
    own = {key for key, detector in searched.items() if detector == name}
    return select_micrographs(labelled, own), name


def _list_other_models(settings: Settings, detector: str) -> list[str]:
    """Quality models of the settings that stay beside the new one of `detector`.

    The verdicts rest on the chosen detector, so those of the run's other detectors go; where each session has a
    detector of its own, they stay.
    """
    replaced = {detector} if settings.detect.is_automatic else set(name_detectors(settings.detect))
    return [model for model in settings.predict.models if models.read_detector_and_floor(model)[0] not in replaced]


def _select_detectors(settings: Settings, detectors: Sequence[str]) -> Sequence[str]:
    """The named detectors, by default all of the run; ValueError for one that the run does not have."""
    available = name_detectors(settings.detect)
    for name in detectors:
        if name not in available:
            raise ValueError(f"--detector {name}: this run has {', '.join(available)}")
    return detectors or list(available)


def _locate_output(workspace: Workspace, out: str) -> Path:
    """The folder of the models: `out`, or MODELS in a local workspace."""
    if out:
        return Path(os.path.abspath(out))
    if not files.is_local(workspace.uri):
        raise ValueError(f"{files.redact(workspace.uri)} is a bucket, and models are read from folders: give --out DIR")
    return Path(os.path.abspath(files.locate(workspace.uri)[1])) / MODELS


def _name_directory(folder: Path, name: str) -> Path:
    """The model directory of the detector `name`; ValueError for a name that leads out of `folder`."""
    if Path(name).name != name:
        raise ValueError(f"the detector's name is {name!r}, which names no folder: rename it in its card.toml")
    return folder / name
