"""Shifted images of the study: the user's folders, and made examples where there is none of a kind."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask.pipeline.commands import network_set
from emqa_dask.pipeline.commands.labelled_images import cut_folder_windows
from emqa_dask.pipeline.commands.network_set import LabelledSet
from emqa_dask.pipeline.tasks.train_domain import SHIFTED_PX, crop_centre, read_image
from emqa_dask.synthetic.shifts import make_shifted_examples
from emqa_dask.tables import SHIFTS
from emqa_dask.train import class_labels
from emqa_dask.windows import WindowSettings

KINDS = SHIFTS[1:]
MAX_MADE = 300  # made examples of a kind
MADE_NAME = "made examples"
UNKNOWN_CLASS = -1
Say = Callable[[str], None]


class Cohort(NamedTuple):
    """Images of one kind of shift, whose windows are a file that networks are asked about."""

    kind: str  # one of KINDS
    name: str  # of the folder, or MADE_NAME
    file: str  # of the windows, without its ending
    sources: NDArray[np.int64]  # (windows,): number of the image of each window
    images: list[str]  # (n,): paths of the images, or of what they were made from
    y: NDArray[np.int64]  # (n,): true classes, UNKNOWN_CLASS where they are unknown
    groups: list[str]  # (n,): images of one group are drawn together for intervals


def read_cohorts(
    folder: Path,
    shifted: Sequence[tuple[str, str]],
    labelled: LabelledSet,
    root: Path,
    settings: WindowSettings,
    windows_per_image: int,
    say: Say,
) -> list[Cohort]:
    """The cohorts of `shifted` (kind, folder), and made ones of the other kinds; their windows go to `folder`.

    A subfolder with the name of a class has images of that class. Made examples are from the test images. Raises
    ValueError for a folder without a file and for one without an image that can be read.
    """
    results = []
    for kind, directory in shifted:
        windows, sources, files = cut_folder_windows(directory, settings, windows_per_image, say)
        names = labelled.training_set.names
        y = [_find_class(path.relative_to(directory), names) for path in files]
        name = Path(directory).resolve().name
        file = network_set.write_windows(folder, f"{kind}-{len(results):02d}", windows)
        images = [str(path) for path in files]
        results.append(Cohort(kind, name, file, sources, images, np.array(y), images))
        say(f"{kind}, {name}: {len(files)} images")
    made_kinds = [kind for kind in KINDS if kind not in {cohort.kind for cohort in results}]
    return results + _make_cohorts(folder, made_kinds, labelled, root, settings, windows_per_image, say)


def _find_class(path: Path, names: Sequence[str]) -> int:
    """Number of the class whose name a folder of `path` has."""
    return next((names.index(part) for part in path.parts[:-1] if part in names), UNKNOWN_CLASS)


def _make_cohorts(
    folder: Path,
    kinds: Sequence[str],
    labelled: LabelledSet,
    root: Path,
    settings: WindowSettings,
    windows_per_image: int,
    say: Say,
) -> list[Cohort]:
    """A made cohort of each of `kinds`; none where no example can be made of the test images."""
    rows = labelled.table[labelled.table["split"] == "test"].head(MAX_MADE)
    if not kinds:
        return []
    try:
        examples = make_shifted_examples([crop_centre(read_image(root / uri)[0], SHIFTED_PX) for uri in rows["uri"]])
    except ValueError as error:
        say(f"no shifted examples can be made of the test images ({error}); give folders with --shifted")
        return []
    results = []
    for kind in kinds:
        named = zip(rows["uri"], examples[kind])
        windows, sources = class_labels.cut_windows(named, settings, max_per_image=windows_per_image)
        file = network_set.write_windows(folder, f"{kind}-made", windows)
        y = rows["y"].to_numpy() if kind == "acquisition" else np.full(len(rows), UNKNOWN_CLASS)
        results.append(Cohort(kind, MADE_NAME, file, sources, list(rows["uri"]), y, list(rows["group"])))
        say(f"{kind}: {len(rows)} examples made of the test images")
    return results
