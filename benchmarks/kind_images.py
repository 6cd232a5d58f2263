"""Real and drawn micrographs by kind, as files, to fit and judge the bundled ensemble `micrograph-kinds`."""

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile

from benchmarks import object_images
from benchmarks.studies.real_sets import DATA, read_cavity_counts, read_labelled_sets
from emqa_dask.synthetic import profiles

SEED = 770_200_001  # no test and no demo draws from here
N_DRAWN = 100  # of each family
# Families of drawn images with their kinds: profiles of the package, and drawings of benchmarks.object_images.
PROFILE_KINDS = {
    "cavity-tem": "cavities",
    "nanoparticle-tem": "particles",
    "atomic-stem": "lattice",
    "sem-texture": "surface",
}
OBJECT_KINDS = {
    "cavities-on-foils": ("cavities", object_images.draw_cavities_on_background),
    "opaque-particles": ("particles", object_images.draw_opaque_particles),
    "loops-in-foils": ("loops", object_images.draw_loops),
}
KIND_OF_OBJECT = {"cavity": "cavities", "particle": "particles", "loop": "loops"}
SPLIT_OF_FOLD = {0: "test", 1: "validation"}  # a fifth of the sources each


class KindImage(NamedTuple):
    """A micrograph of a known kind."""

    dataset: str  # a folder of ../shared/data, or "drawn FAMILY"
    source: str  # a paper, a series or an experiment; each drawn image is its own
    kind: str
    split: str  # train, validation, test; judge: a set without a licence or from a simulation, never trained on
    path: Path


def list_images(drawn_folder: Path) -> list[KindImage]:
    """All images; those that are drawn are written to `drawn_folder` where they are not there."""
    return [*_list_real_images(), *_list_drawn_images(drawn_folder)]


def assign_split(source: str) -> str:
    """The split of a source, by its name alone: images of one source are on one side."""
    return SPLIT_OF_FOLD.get(zlib.crc32(source.encode()) % 5, "train")


def _list_real_images() -> Iterator[KindImage]:
    for image in read_labelled_sets():
        kind = KIND_OF_OBJECT[image.kind]
        yield KindImage(image.dataset, image.source, kind, assign_split(image.source), image.path)
    for cavities in read_cavity_counts():
        yield KindImage("uw_cavity", cavities.family, "cavities", "judge", cavities.path)
    for path in sorted((DATA / "abtem_sim").glob("*.tif")):
        kind = "particles" if "field" in path.name else "lattice"
        yield KindImage("abtem_sim", path.stem, kind, "judge", path)


def _list_drawn_images(folder: Path) -> Iterator[KindImage]:
    families = {**{name: (kind, None) for name, kind in PROFILE_KINDS.items()}, **OBJECT_KINDS}
    folder.mkdir(parents=True, exist_ok=True)
    for number, (family, (kind, draw)) in enumerate(families.items()):
        for k in range(N_DRAWN):
            path = folder / f"{family}-{k:03d}.tif"
            if not path.is_file():
                rng = np.random.default_rng([SEED, number, k])
                sample = draw(rng) if draw else profiles.make_sample(family, rng, clear=k % 2 == 0)
                tifffile.imwrite(path, sample.image)
            yield KindImage(f"drawn {family}", path.stem, kind, assign_split(path.stem), path)
