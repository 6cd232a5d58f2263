"""The lots' study's images: windows of fields of SEM textures, acquired as usual and otherwise, and unrelated ones."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from emqa_dask.synthetic import foreign, textures
from emqa_dask.train.class_labels import cut_windows, split_groups
from emqa_dask.windows import WindowSettings, normalise_image

VIEW = WindowSettings(64, stride_px=64)
SHRUNK = 2  # a field of 256 px is recorded, 128 px of it are kept: 2 x 2 windows that share no pixel
FIELD_PX = 256
NM_PER_PIXEL = 100.0  # of the recording, the same for all lots: their grains' radii are 2.5 to 25 px


class Acquisition(NamedTuple):
    """What an operator sets; the same for all lots, as in the paper."""

    dose_e_per_px: float = 150.0
    blur_px: float = 0.7
    side_rad: float = np.pi / 2  # where the detector is
    gamma: float = 1.0  # of the image, about its mean


OWN = Acquisition()
CHANGED = {  # one setting each; the paper's is a new filament
    "dose": OWN._replace(dose_e_per_px=25.0),
    "blur": OWN._replace(blur_px=1.4),
    "detector": OWN._replace(side_rad=0.0),
    "contrast": OWN._replace(gamma=0.75),
}


class Fields(NamedTuple):
    """Windows of fields of view; `source` is the field, the group that a split has to keep together."""

    windows: NDArray[np.float32]  # (n, 64, 64) in [0, 1]
    lot: NDArray[np.int64]  # (n,)
    source: NDArray[np.int64]  # (n,)


def draw(
    lots: Iterable[int], fields: int, acquisition: Acquisition, seed: tuple[int, ...], each: Callable = map
) -> Fields:
    """`fields` fields of view of each of `lots`; every field has a random stream of its own, from `seed` and lot.

    `each` is map, or the one of a pool of processes.
    """
    of = [(lot, k) for lot in lots for k in range(fields)]
    drawn = each(draw_field, [[*seed, *place] for place in of], [lot for lot, _ in of], [acquisition] * len(of))
    windows, source = cut_windows([(f"lot {lot}, field {k}", field) for (lot, k), field in zip(of, drawn)], VIEW)
    return Fields(windows, np.array(of)[source, 0], source)


def draw_field(seed: list[int], lot: int, set_to: Acquisition) -> NDArray[np.float32]:
    """A field of view (128, 128) of a lot, mean about 1 before its gamma."""
    sample = textures.draw_texture(
        np.random.default_rng(seed), (FIELD_PX, FIELD_PX), lot=lot, nm_per_pixel=NM_PER_PIXEL, dtype="float32",
        exposure={"dose_e_per_px": set_to.dose_e_per_px, "mtf_sigma_px": 0.4, "read_noise_e": 1.0},
        blur_px=set_to.blur_px, side_rad=set_to.side_rad,
    )  # fmt: skip
    side = FIELD_PX // SHRUNK
    image = cv2.resize(sample.image / sample.image.mean(), (side, side), interpolation=cv2.INTER_AREA)
    return np.maximum(image, 0) ** np.float32(set_to.gamma)


@lru_cache(maxsize=1)
def own(seed: int, lots: int, fields: tuple[int, int, int], each: Callable = map) -> tuple[Fields, NDArray]:
    """Windows of the first `lots` lots and their split (n,): so many fields of each to train, validate and test."""
    results = draw(range(lots), sum(fields), OWN, (seed, 0), each)
    return results, split_groups(results.lot, results.source, shares=fields, seed=seed)


def foreign_parts(
    seed: int, lots: int, fields: int, photographs: int, data: Path, each: Callable = map
) -> dict[str, Fields]:
    """By kind: the same lots acquired otherwise, unseen lots, photographs, and CIFAR-10's where they are.

    Of each changed acquisition ("changed: its name") there are `fields` over four fields a lot; of the unseen lots,
    the next two for every three known ones, `fields`. Photographs' lot is -1.
    """
    of_each = max(1, fields // len(CHANGED))
    results = {
        f"changed: {name}": draw(range(lots), of_each, settings, (seed, 1 + k), each)
        for k, (name, settings) in enumerate(CHANGED.items())
    }
    results["unseen"] = draw(range(lots, lots + max(1, 2 * lots // 3)), fields, OWN, (seed, 9), each)
    rng = np.random.default_rng([seed, 10])
    results["photographs"] = _unrelated([_grey(foreign.draw_photograph(rng, (256, 256))) for _ in range(photographs)])
    file = data / "cifar10_ood/cifar10_train.npz"
    if file.is_file():
        images = np.load(file)["X"]
        results["cifar10"] = _unrelated([_grey(images[k]) for k in rng.permutation(len(images))[:photographs]])
    return results


def _grey(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) if picture.ndim == 3 else picture


def _unrelated(pictures: list[NDArray]) -> Fields:
    """Whole pictures at the windows' size, as the paper does with CIFAR-10's."""
    side = (VIEW.size_px, VIEW.size_px)
    ways = (cv2.INTER_AREA if min(p.shape) > VIEW.size_px else cv2.INTER_CUBIC for p in pictures)
    seen = [normalise_image(cv2.resize(p, side, interpolation=way), VIEW) for p, way in zip(pictures, ways)]
    return Fields(np.stack(seen), np.full(len(seen), -1), np.arange(len(seen)))
