"""Fits the domain by content of a bundled detector to its training images, and writes it into the model directory.

python -m benchmarks.fit_content_domain MODEL_DIR --pool POOL --kinds cavity cavity_wide background --objects cavity
python -m benchmarks.fit_content_domain MODEL_DIR --pool POOL --kinds cavity cavity_wide background particle opaque loop
    --real --objects cavity particle loop

`POOL` is the folder of `python -m benchmarks.fit_object_detector draw`. --real adds the labelled sets, for a detector
that was trained on them. --objects names the kinds of the network `object-kinds` that are no other kinds; without it
the distance alone decides. No image of the cavities that judge is read.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.fit_object_detector import POOL, TrainingImage, read_pool
from benchmarks.studies.real_sets import read_labelled_sets
from emqa_dask.classify.content import embed_image
from emqa_dask.content_domain import ObjectKinds, fit_content_domain
from emqa_dask.pipeline.commands.detector_domain import write_detector_domain
from emqa_dask.tables import OBJECT_KIND_NAMES
from emqa_dask.train.detector_data import read_grey_image

IMAGES_PER_KIND = 100
OTHER_LIMIT = 0.5  # probability of other kinds: out of domain where they are likelier than the detector's own


def embed_kind(images: list[TrainingImage], kind: str) -> tuple[list[np.ndarray], list[str]]:
    """Embeddings of images that are spread evenly over `images`, and their groups: each drawn image is its own."""
    positions = np.unique(np.linspace(0, len(images) - 1, min(len(images), IMAGES_PER_KIND)).round().astype(int))
    embeddings = {f"{kind}-{k}": embed_image(images[k].image.astype(np.float32)) for k in positions}
    embeddings = {name: embedding for name, embedding in embeddings.items() if len(embedding)}
    return list(embeddings.values()), list(embeddings)


def embed_real_sets() -> tuple[list[np.ndarray], list[str]]:
    """Embeddings of all labelled images with contrast, and their sources."""
    images = read_labelled_sets()
    embeddings = [embed_image(read_grey_image(image.path)) for image in images]
    sources = [f"{image.dataset}/{image.source}" for image in images]
    is_used = [len(embedding) > 0 for embedding in embeddings]
    return [e for e, used in zip(embeddings, is_used) if used], [s for s, used in zip(sources, is_used) if used]


def main() -> None:
    """Fits and writes the domain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(POOL), required=True)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--objects", nargs="+", choices=OBJECT_KIND_NAMES, default=[])
    options = parser.parse_args()
    pool = read_pool(options.pool)
    embeddings: list[np.ndarray] = []
    groups: list[str] = []
    for kind in options.kinds:
        kind_embeddings, kind_groups = embed_kind(pool[kind], kind)
        embeddings += kind_embeddings
        groups += kind_groups
    if options.real:
        real_embeddings, sources = embed_real_sets()
        embeddings += real_embeddings
        groups += sources
    domain = fit_content_domain(embeddings, groups)
    kinds = ObjectKinds(tuple(options.objects), OTHER_LIMIT) if options.objects else None
    write_detector_domain(options.model, domain, kinds)
    print(f"{options.model}: domain of {len(embeddings)} images, limit {domain.limit:.2f}")


if __name__ == "__main__":
    main()
