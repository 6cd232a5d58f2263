"""Fits the domain by content of a bundled detector to drawn images, and writes it into the model directory.

python -m benchmarks.fit_content_domain MODEL_DIR --pool POOL --kinds cavity cavity_wide background

`POOL` is the folder of `python -m benchmarks.fit_object_detector draw`. No image of a set that judges is read.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.fit_object_detector import POOL, TrainingImage, read_pool
from emqa_dask.classify.content import embed_image
from emqa_dask.content_domain import fit_content_domain
from emqa_dask.pipeline.commands.detector_domain import write_detector_domain

IMAGES_PER_KIND = 100


def embed_kind(images: list[TrainingImage], kind: str) -> tuple[list[np.ndarray], list[str]]:
    """Embeddings of images that are spread evenly over `images`, and their groups: each drawn image is its own."""
    positions = np.unique(np.linspace(0, len(images) - 1, min(len(images), IMAGES_PER_KIND)).round().astype(int))
    embeddings = {f"{kind}-{k}": embed_image(images[k].image.astype(np.float32)) for k in positions}
    embeddings = {name: embedding for name, embedding in embeddings.items() if len(embedding)}
    return list(embeddings.values()), list(embeddings)


def main() -> None:
    """Fits and writes the domain."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", choices=list(POOL), required=True)
    options = parser.parse_args()
    pool = read_pool(options.pool)
    embeddings: list[np.ndarray] = []
    groups: list[str] = []
    for kind in options.kinds:
        kind_embeddings, kind_groups = embed_kind(pool[kind], kind)
        embeddings += kind_embeddings
        groups += kind_groups
    domain = fit_content_domain(embeddings, groups)
    write_detector_domain(options.model, domain)
    print(f"{options.model}: domain of {len(embeddings)} images, limit {domain.limit:.2f}")


if __name__ == "__main__":
    main()
