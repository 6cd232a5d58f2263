"""Atomic columns with known sites under Gaussian noise, and ways to find them: LoG, scikit-image's, a network."""

import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import tifffile
import torch
from scipy.ndimage import maximum_filter
from skimage.feature import blob_log
from torch import nn

from emqa_dask.detect.candidates import find_candidates, select_detections
from emqa_dask.settings import Detect
from emqa_dask.synthetic import lattices
from emqa_dask.tune import rewards
from emqa_dask.tune.lattice import LatticePhysics, make_cell_physics
from emqa_dask.tune.rewards import Scene

# Drift-free, well exposed: the noise under study is added afterwards.
QUIET = {"disorder": False, "background": 0.3, "dtype": "float32", "vacancies": 0.0}
UNLIMITED = {"dose_e_per_px": np.inf, "mtf_sigma_px": 0.0}
ABTEM = Path(__file__).parents[3] / "shared" / "data" / "abtem_sim"
FLOOR = 0.01  # threshold down to which candidates are kept


class Case(NamedTuple):
    """An image in 0...1 before noise, what is in it, and what physics says."""

    name: str
    image: np.ndarray
    sites: np.ndarray  # n x 2, y, x, px
    physics: LatticePhysics
    nm_per_pixel: float


def physics_of(cell: str) -> LatticePhysics:
    """The physics of a cell of `synthetic.lattices.CELLS`."""
    a, b, gamma, basis = lattices.CELLS[cell]
    return make_cell_physics(a, b, gamma, [(u, v) for u, v, *_ in basis])


def synthetic(cell: str, seed: int, spacing_px: float = 13.0, shape: tuple[int, int] = (288, 288)) -> Case:
    """A lattice of columns with a standard deviation of 0.2 spacings."""
    physics = physics_of(cell)
    sample = lattices.draw_lattice(
        np.random.default_rng(seed), shape, cell=cell, nm_per_pixel=physics.spacing_nm / spacing_px, jitter_px=0.0,
        column_sigma_px=0.2 * spacing_px, exposure=UNLIMITED, **QUIET,
    )  # fmt: skip
    return Case(cell, unit_range(sample.image), sample.meta["sites_yx"], physics, sample.nm_per_pixel)


def multislice() -> list[Case]:
    """The simulated SrTiO3 of shared/data, where it is: Sr and Ti columns, which are what the detector shows."""
    cases = []
    for path in sorted(ABTEM.glob("sto_haadf_dose*.tif")):
        truth = json.loads((ABTEM / "sto_haadf.json").read_text())
        heavy = [(c["y"], c["x"]) for c in truth["columns_px"] if c["element"] != "O"]
        image = unit_range(tifffile.imread(path))
        name = f"SrTiO3 abTEM {path.stem.rpartition('dose')[2]}"
        cases.append(Case(name, image, np.array(heavy), physics_of("SrTiO3 [001]"), truth["pixel_size_nm"]))
    return cases


def unit_range(image: np.ndarray) -> np.ndarray:
    image = image.astype(np.float32)
    return (image - image.min()) / np.ptp(image)


def noisy(case: Case, noise: float, seed: int) -> Case:
    """`case` with Gaussian noise of standard deviation `noise`, in units of the clean image's range."""
    grain = np.random.default_rng([seed, round(1000 * noise)]).standard_normal(case.image.shape, dtype=np.float32)
    return case._replace(image=case.image + np.float32(noise) * grain)


class Log:
    """The LoG detector on one image, with the candidates of every set of scales kept."""

    def __init__(self, image: np.ndarray, polarity: str = "bright", floor: float = FLOOR):
        self.image = image
        self.polarity = polarity
        self.floor = floor
        self.kept = {}
        self.n_searched = 0

    def points(self, settings: dict) -> pd.DataFrame:
        """The detections under `settings` (of tune.Space)."""
        key = settings["min_sigma"], settings["max_sigma"], settings["num_sigma"]
        wanted = Detect(polarity=self.polarity, **settings)
        if key not in self.kept:
            at_floor = settings | {"threshold": self.floor}
            self.kept[key] = find_candidates(self.image, Detect(polarity=self.polarity, **at_floor))
            self.n_searched += 1
        return select_detections(self.kept[key], wanted)


def judged(points: pd.DataFrame, case: Case) -> dict[str, float]:
    """Count error (signed) against the true sites, crowding, and F1 against the sites within 0.3 spacings.

    The edge counts less, as in the reward (`rewards.tapered_count`); `physics_error` is the reward's own, signed.
    """
    scene = Scene(case.image, case.nm_per_pixel, case.physics, pd.DataFrame(case.sites, columns=["y_px", "x_px"]))
    return {
        "n": len(points),
        "count_error": rewards.count_tapered(points, scene) / rewards.count_tapered(scene.reference, scene) - 1,
        "physics_error": rewards.signed_count_error(points, scene),
        "crowding": rewards.crowding(points, scene),
        "true_f1": 1 - rewards.disagreement(points, scene),
    }


def skimage_points(image: np.ndarray) -> pd.DataFrame:
    """`skimage.feature.blob_log` with its defaults, on the image scaled to 0...1."""
    results = blob_log(unit_range(image))
    return pd.DataFrame(results, columns=["y_px", "x_px", "sigma_px"])


class Network(nn.Module):
    """Image to a heat map of columns: 3 x 3 convolutions, dilated, receptive field 35 px; about 42 thousand weights."""

    def __init__(self, width: int = 24):
        super().__init__()
        layers = []
        last = 1
        for dilation in (1, 1, 2, 4, 4, 2, 2, 1):
            layers += [
                nn.Conv2d(last, width, 3, padding=dilation, dilation=dilation),
                nn.GroupNorm(4, width),
                nn.ReLU(),
            ]
            last = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layers(images)[:, 0]


def train_network(steps: int, seed: int, largest_noise: float) -> tuple[Network, dict]:
    """A network trained on lattices of all cells, spacings of 10 to 16 px, Gaussian noise up to `largest_noise`."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(seed)
    network = Network()
    started = time.perf_counter()
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 4e-3, total_steps=steps)
    pool = [example(rng) for _ in range(24)]
    for _ in range(steps):
        images, heats = zip(*(crop(pool[int(rng.integers(len(pool)))], rng, largest_noise) for _ in range(6)))
        results = network(torch.from_numpy(np.stack(images))[:, None])
        loss = ((torch.sigmoid(results) - torch.from_numpy(np.stack(heats))) ** 2).mean() * 20
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    facts = {
        "steps": steps,
        "largest_noise": largest_noise,
        "seconds": time.perf_counter() - started,
        "loss": loss.item(),
    }
    return network.eval(), facts


def example(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A clean lattice image in 0...1 and the heat map of its columns, maxima 1."""
    cell = str(rng.choice(sorted(lattices.CELLS)))
    case = synthetic(cell, int(rng.integers(2**31)), spacing_px=rng.uniform(10, 16), shape=(256, 256))
    heat = lattices._render_columns(case.sites, np.ones(len(case.sites)), 2.0, case.image.shape)
    return case.image, np.minimum(heat, 1).astype(np.float32)


def crop(
    pair: tuple[np.ndarray, np.ndarray], rng: np.random.Generator, largest_noise: float, side: int = 96
) -> tuple[np.ndarray, np.ndarray]:
    y, x = rng.integers(0, 256 - side, 2)
    image, heat = (part[y : y + side, x : x + side] for part in pair)
    noise = np.float32(rng.uniform(0, largest_noise))
    return standard(image + noise * rng.standard_normal(image.shape, dtype=np.float32)), heat


def standard(image: np.ndarray) -> np.ndarray:
    return ((image - image.mean()) / max(float(image.std()), 1e-6)).astype(np.float32)


def network_points(network: Network, image: np.ndarray, threshold: float = 0.5) -> pd.DataFrame:
    """Local maxima of the network's heat map above `threshold`."""
    with torch.no_grad():
        heat = torch.sigmoid(network(torch.from_numpy(standard(image))[None, None]))[0].numpy()
    y, x = np.nonzero((heat == maximum_filter(heat, 5)) & (heat > threshold))
    return pd.DataFrame({"y_px": y.astype(float), "x_px": x.astype(float)})
