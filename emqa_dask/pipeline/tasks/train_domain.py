"""What a worker does to learn a classifier's domain: probabilities and statistics of images and of made shifts."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.archive import readers
from emqa_dask.featurise import rings
from emqa_dask.featurise.images import image_statistics
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.synthetic import shifts
from emqa_dask.uncertainty import shift_model

SHIFTED_PX = 1024  # largest side of an image that an example of a shift is made from


def read(path: Path) -> tuple[np.ndarray, float, float]:
    """The first micrograph of a file, its pixel size in nm and voltage in kV, NaN where unknown."""
    image, header = readers.read_micrograph(path)
    return image, header.nm_per_pixel, header.voltage_kv


def _middle(image: np.ndarray, side_px: int) -> np.ndarray:
    y, x = (max(0, (n - side_px) // 2) for n in image.shape)
    return image[y : y + side_px, x : x + side_px]


def see(folder: str, device: str, paths: list[Path], cs_mm: float, call: Call = call_directly) -> dict:
    """A task: what the ensemble, the statistics and Thon rings say of some images, one in memory at a time."""
    said = []
    for path in paths:
        image, nm, voltage = read(path)
        one = _seen_images(folder, device, [image])
        defocus = rings.measure_thon_rings(image, nm, voltage, cs_mm=cs_mm).defocus_nm
        said.append(one._replace(features=one.features.assign(defocus_nm=defocus, voltage_kv=voltage)))
    return {"n_images": len(paths), "seen": _joined(said)}


def see_shifted(folder: str, device: str, numbered: list[tuple[int, Path]], call: Call = call_directly) -> dict:
    """A task: the same, but rings, of examples of shifts made from some images; their numbers follow one another."""
    images = [_middle(read(path)[0], SHIFTED_PX) for _, path in numbered]
    try:
        made = shifts.shifted_examples(images, first=numbered[0][0])
    except ValueError as error:
        return {"n_images": 0, "refused": str(error)}
    return {"n_images": len(numbered)} | {kind: _seen_images(folder, device, some) for kind, some in made.items()}


def see_foreign(folder: str, device: str, paths: list[Path], call: Call = call_directly) -> dict:
    """A task: the same of some files, as far as they can be read, and of the others the reason in `left_out`."""
    images = []
    left_out = []
    for path in paths:
        try:
            images.append(read(path)[0])
        except ValueError as error:
            left_out.append(str(error))
    seen = {"seen": _seen_images(folder, device, images)} if images else {}
    return {"n_images": len(paths), "left_out": left_out} | seen


def _seen_images(folder: str, device: str, images: Sequence[np.ndarray]) -> shift_model.EnsembleOutputs:
    from emqa_dask.classify import load_ensemble
    from emqa_dask.classify.rows import N_EMBEDDED_MEMBERS

    ensemble = load_ensemble(folder, device)
    images = [image for image in images if not ensemble.explain_refusal(image.shape)]
    examined = [one for image in images for one in ensemble.classify_images([image])]
    p = np.stack([one.probabilities for one in examined], axis=1)
    embeddings = np.stack([one.embeddings[:N_EMBEDDED_MEMBERS] for one in examined], axis=1)
    content = np.stack([one.content for one in examined])
    odds = np.array([one.foreign_log_odds for one in examined])
    return shift_model.EnsembleOutputs(
        p, embeddings, pd.DataFrame([image_statistics(image) for image in images]), content, odds
    )


def _joined(parts: Sequence[shift_model.EnsembleOutputs]) -> shift_model.EnsembleOutputs:
    p, embeddings = (
        np.concatenate([getattr(part, name) for part in parts], axis=1)
        for name in shift_model.EnsembleOutputs._fields[:2]
    )
    content, odds = (
        np.concatenate([getattr(part, name) for part in parts]) for name in shift_model.EnsembleOutputs._fields[3:]
    )
    return shift_model.EnsembleOutputs(
        p, embeddings, pd.concat([part.features for part in parts], ignore_index=True), content, odds
    )
