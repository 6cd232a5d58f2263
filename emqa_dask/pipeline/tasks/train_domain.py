"""Tasks of the fit of a classifier's domain: outputs of the ensemble on images and on shifted images."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.archive import readers
from emqa_dask.featurise import rings
from emqa_dask.featurise.images import image_statistics
from emqa_dask.pixel_sides import is_square_pixel
from emqa_dask.run.supervise import Call, call_directly
from emqa_dask.synthetic import shifts
from emqa_dask.uncertainty.ensemble_outputs import EnsembleOutputs, join_outputs

SHIFTED_PX = 1024  # largest side of an image that an example of a shift is made from


def read_image(path: Path) -> tuple[np.ndarray, float, float]:
    """The first micrograph of a file, its pixel size in nm and voltage in kV, NaN where unknown.

    The pixel size of pixels that are not square is NaN, too: it is for Thon rings, which are circles in square pixels.
    """
    image, header = readers.read_micrograph(path)
    is_square = is_square_pixel(header.nm_per_pixel, header.nm_per_pixel_y)
    return image, header.nm_per_pixel if is_square else np.nan, header.voltage_kv


def crop_centre(image: np.ndarray, side_px: int) -> np.ndarray:
    """The central square of an image, at most `side_px` wide."""
    y, x = (max(0, (n - side_px) // 2) for n in image.shape)
    return image[y : y + side_px, x : x + side_px]


def examine_images(folder: str, device: str, paths: list[Path], cs_mm: float, call: Call = call_directly) -> dict:
    """Task: outputs of the ensemble on images, with defocus from Thon rings; one image is in memory at a time."""
    parts = []
    for path in paths:
        image, nm_per_pixel, voltage_kv = read_image(path)
        outputs = _classify_images(folder, device, [image])
        defocus_nm = rings.measure_thon_rings(image, nm_per_pixel, voltage_kv, cs_mm=cs_mm).defocus_nm
        features = outputs.features.assign(defocus_nm=defocus_nm, voltage_kv=voltage_kv)
        parts.append(outputs._replace(features=features))
    return {"n_images": len(paths), "outputs": join_outputs(parts)}


def examine_shifted_images(
    folder: str, device: str, numbered_paths: list[tuple[int, Path]], call: Call = call_directly
) -> dict:
    """Task: outputs on an example of every kind of shift made from each image; the numbers are consecutive.

    `refused` has the reason where no example can be made of an image.
    """
    images = [crop_centre(read_image(path)[0], SHIFTED_PX) for _, path in numbered_paths]
    try:
        examples = shifts.make_shifted_examples(images, first=numbered_paths[0][0])
    except ValueError as error:
        return {"n_images": 0, "refused": str(error)}
    outputs = {kind: _classify_images(folder, device, images) for kind, images in examples.items()}
    return {"n_images": len(numbered_paths)} | outputs


def examine_shift_examples(folder: str, device: str, paths: list[Path], call: Call = call_directly) -> dict:
    """Task: outputs on the user's examples of a shift; `left_out` has the reasons of files that cannot be read."""
    images = []
    left_out = []
    for path in paths:
        try:
            images.append(read_image(path)[0])
        except ValueError as error:
            left_out.append(str(error))
    outputs = {"outputs": _classify_images(folder, device, images)} if images else {}
    return {"n_images": len(paths), "left_out": left_out} | outputs


def _classify_images(folder: str, device: str, images: Sequence[np.ndarray]) -> EnsembleOutputs:
    """Outputs of the ensemble in `folder` on the images that it accepts."""
    from emqa_dask.classify import load_ensemble
    from emqa_dask.classify.rows import N_EMBEDDED_MEMBERS

    ensemble = load_ensemble(folder, device)
    images = [image for image in images if not ensemble.explain_refusal(image.shape)]
    examined = [image_outputs for image in images for image_outputs in ensemble.classify_images([image])]
    p = np.stack([image_outputs.probabilities for image_outputs in examined], axis=1)
    embeddings = np.stack([image_outputs.embeddings[:N_EMBEDDED_MEMBERS] for image_outputs in examined], axis=1)
    content = np.stack([image_outputs.content for image_outputs in examined])
    odds = np.array([image_outputs.foreign_log_odds for image_outputs in examined])
    return EnsembleOutputs(p, embeddings, pd.DataFrame([image_statistics(image) for image in images]), content, odds)
