"""The domain by content of a trained detector, fitted to its training images."""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from emqa_dask import models, output_folders
from emqa_dask.classify.content import embed_image
from emqa_dask.content_domain import (
    CONTENT_DOMAIN_FILE,
    MIN_IMAGES,
    ContentDomain,
    ObjectKinds,
    fit_content_domain,
    write_content_domain,
)

MAX_IMAGES = 1000  # training images that are embedded


def add_detector_domain(
    folder: Path, paths: Sequence[Path], read: Callable[[Path], NDArray], device: str, say: Callable[[str], None]
) -> None:
    """Adds the domain by content to the model directory `folder` of a detector that was trained on images `paths`.

    Images of a folder, or of a series by their names, are held out together for the limit. With too few images the
    model stays as it is, which is reported.
    """
    positions = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), MAX_IMAGES)).round().astype(int))
    sample = [paths[k] for k in positions]
    embeddings = [embed_image(read(path), device) for path in sample]
    is_embedded = [len(embedding) > 0 for embedding in embeddings]
    if sum(is_embedded) < MIN_IMAGES:
        say(
            f"no domain by content: {sum(is_embedded)} images are too few to say what is typical, at least {MIN_IMAGES}"
        )
        return
    groups = [group for group, is_used in zip(name_image_groups(sample), is_embedded) if is_used]
    domain = fit_content_domain([embedding for embedding in embeddings if len(embedding)], groups)
    write_detector_domain(folder, domain)
    say(f"domain by content: fitted to {len(groups)} training images in {len(set(groups))} groups")


def name_image_groups(paths: Sequence[Path]) -> list[str]:
    """The folder of each image where there are several, else its name up to the first digit."""
    folders = [str(path.parent) for path in paths]
    if len(set(folders)) > 1:
        return folders
    return [re.split(r"\d", path.stem)[0] for path in paths]


def write_detector_domain(folder: Path, domain: ContentDomain, kinds: ObjectKinds | None = None) -> None:
    """Replaces the model directory by one with the domain and the kinds of objects, as a whole."""
    model_card = models.load_model_card(folder)
    names = [name for name in model_card.pop("files") if name != CONTENT_DOMAIN_FILE]
    model_card.pop("object_kinds", None)
    with output_folders.write_folder(folder) as fresh:
        for name in names:
            shutil.copyfile(folder / name, fresh / name)
        entries = write_content_domain(domain, fresh)
        if kinds is not None:
            entries["object_kinds"] = {"own": list(kinds.own), "limit": kinds.limit}
        models.write_model_card(fresh, {**model_card, **entries})
