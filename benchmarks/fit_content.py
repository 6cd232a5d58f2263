"""Trains the bundled network `content`: embeddings that tell what is in an image, however it was recorded.

python -m benchmarks.fit_content --out DIR [--pictures 25000] [--minutes 40]

Draws pictures of 192 px (synthetic.contents, whole micrographs, photographs), of which every batch takes windows, each
turned, scaled by up to 1.6 and recorded in a way of its own (synthetic.conditions). The loss is that of supervised
contrastive learning (Khosla et al., NeurIPS 2020): four windows of a picture have to find each other among those of 95
others, which are mostly of the same six families. Then the head: a logistic regression of the families. DIR gets
weights.safetensors and card.toml, with figures measured on pictures of another seed. Two processes draw; the training
has two threads, and a third process makes its windows.
"""

import argparse
import multiprocessing
import os
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional

from emqa_dask import classifiers, models, networks
from emqa_dask.classify import content
from emqa_dask.synthetic import foreign
from emqa_dask.synthetic.conditions import reacquire
from emqa_dask.synthetic.contents import CONTENTS, MICROGRAPHS, draw_crop, resize_image
from emqa_dask.synthetic.profiles import FAMILIES, make_sample
from emqa_dask.synthetic.sample import draw_log_uniform
from emqa_dask.uncertainty.referral import auroc

PICTURE_PX = 192
WINDOW_PX = 64
VIEWS = 4
PICTURES = 96
FAMILIES_IN_A_BATCH = 6
TEMPERATURE = 0.1
RATE = 2e-3
# How often each family is drawn.
DRAWN = {name: 2.0 if name in MICROGRAPHS else 1.0 for name in CONTENTS} | {"particles": 4.0}
DRAWN |= dict.fromkeys(FAMILIES, 1.0) | {"photograph": 5.0, "plot": 0.7, "diffraction": 0.7, "eds_map": 0.5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=25_000)
    parser.add_argument("--minutes", type=float, default=40)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_num_threads(2)
    pictures, names = drawn(options.pictures, seed=0)
    families = sorted(DRAWN)
    net = classifiers.build_content_network(len(families))
    steps = train(net, pictures, names, options.minutes)
    fit_head(net, windows_of(pictures[:12_000], seed=1), names[:12_000], families)
    measurements = measure(net, families)
    networks.save_weights(net, options.out / content.WEIGHTS, is_half_precision=True)
    card = {
        "name": "content",
        "what": "embeddings of what is in a window of 64 px, grey, however it was recorded; trained on drawn pictures",
        "families": {"names": families, "foreign": list(foreign.FOREIGN)},
        "training": {"pictures": len(pictures), "steps": steps, "minutes": options.minutes},
        "measured": measurements,
    }
    models.write_model_card(options.out, card)
    print(measurements)


def draw(rng: np.random.Generator, family: str) -> np.ndarray:
    """A picture of `family`, PICTURE_PX wide, uint8: grey values 40 to 200, the rest is room for what overshoots."""
    side = (PICTURE_PX, PICTURE_PX)
    if family in CONTENTS:
        made = CONTENTS[family](rng, side)
    else:
        if family in FAMILIES:
            whole = make_sample(family, rng).image.astype(np.float32)
            least = 0.15
        else:
            size = int(draw_log_uniform(rng, 100, 900)) if family == "photograph" else int(rng.integers(200, 700))
            whole = foreign.make_foreign_image(family, rng, (size, size)).astype(np.float32)
            least = 0.3
        whole = whole if whole.ndim == 2 else whole @ np.array([0.299, 0.587, 0.114], np.float32)
        made = cv2.GaussianBlur(
            resize_image(draw_crop(rng, whole, draw_log_uniform(rng, least, 1)), side), (0, 0), rng.uniform(0.3, 1)
        )
    made = -made if rng.random() < 0.3 else made
    low, high = np.percentile(made, [0.5, 99.5])
    return np.rint(40 + 160 * np.clip((made - low) / max(high - low, 1e-6), -0.25, 1.25)).astype(np.uint8)


def drawn(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """`n` pictures and their families."""
    share = np.array(list(DRAWN.values()))
    names = np.random.default_rng([seed, 0]).choice(list(DRAWN), size=n, p=share / share.sum())
    os.environ |= {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # of the processes
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(_draw, [(seed, k, str(name)) for k, name in enumerate(names)], chunksize=50)
    return np.stack(results), names


def _draw(seed, k, family):
    return draw(np.random.default_rng([seed, 1, k]), family)


def window(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """A window of `picture`, (64, 64) float32: somewhere, turned, at some scale, noisy, mostly recorded otherwise."""
    share = draw_log_uniform(rng, 1, 1.6) * WINDOW_PX / PICTURE_PX
    unit = resize_image((draw_crop(rng, picture, share).astype(np.float32) - 40) / 160, (WINDOW_PX, WINDOW_PX))
    unit = np.rot90(unit, rng.integers(4))
    unit = np.ascontiguousarray(unit[:, ::-1] if rng.random() < 0.5 else unit)
    unit += np.float32(draw_log_uniform(rng, 0.01, 0.12)) * rng.standard_normal(unit.shape, dtype=np.float32)
    return np.clip(reacquire(rng, unit) if rng.random() < 0.8 else unit, -1, 3)


class Batches(torch.utils.data.IterableDataset):
    """Batches (PICTURES, VIEWS, 64, 64), without end."""

    def __init__(self, pictures: np.ndarray, names: np.ndarray):
        self.pictures = pictures
        self.of = [np.flatnonzero(names == name) for name in np.unique(names)]

    def __iter__(self):
        rng = np.random.default_rng([2, torch.utils.data.get_worker_info().id])
        cv2.setNumThreads(1)
        share = np.sqrt([len(of) for of in self.of])
        while True:
            selection = rng.choice(len(self.pictures), PICTURES, replace=False)
            if rng.random() < 0.7:  # the nearest are the hardest to tell apart
                families = rng.choice(len(self.of), FAMILIES_IN_A_BATCH, replace=False, p=share / share.sum())
                each = PICTURES // FAMILIES_IN_A_BATCH
                selection = np.concatenate([rng.permutation(self.of[family])[:each] for family in families])
            stack = [window(rng, self.pictures[k]) for k in selection for _ in range(VIEWS)]
            yield torch.from_numpy(content.stretch_contrast(np.stack(stack)))


def train(net: torch.nn.Module, pictures: np.ndarray, names: np.ndarray, minutes: float) -> int:
    """Trains the body of `net`; the number of steps."""
    batches = torch.utils.data.DataLoader(Batches(pictures, names), None, num_workers=1, prefetch_factor=4)
    ahead = torch.nn.Sequential(torch.nn.Linear(128, 128), torch.nn.ReLU(), torch.nn.Linear(128, 64))
    both = torch.nn.ModuleList([net.body, ahead]).to(memory_format=torch.channels_last).train()
    optimiser = torch.optim.AdamW(both.parameters(), RATE, weight_decay=1e-4)
    began = time.monotonic()
    for step, batch in enumerate(batches):
        done = (time.monotonic() - began) / 60 / minutes
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / 100) * (0.5 + 0.5 * np.cos(np.pi * done)) + 1e-6
        with torch.autocast("cpu", torch.bfloat16):
            results = ahead(net.body(batch[:, None].to(memory_format=torch.channels_last)))
        results = functional.normalize(results.float(), dim=1)
        of = torch.arange(len(batch)) // VIEWS
        itself = torch.eye(len(batch), dtype=torch.bool)
        same = (of[:, None] == of) & ~itself
        odds = (results @ results.T / TEMPERATURE).masked_fill(itself, -1e9).log_softmax(dim=1)
        loss = -odds.masked_fill(~same, 0).sum(dim=1).mean() / (VIEWS - 1)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 100 == 99:
            is_found = (of[odds.argmax(dim=1)] == of).float().mean()
            print(f"{step + 1} steps, {100 * done:.0f} %: loss {loss:.3f}, nearest its own {is_found:.3f}", flush=True)
    net.eval()
    return step


def windows_of(pictures: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 3])
    return content.stretch_contrast(np.stack([window(rng, picture) for picture in pictures]))


def fit_head(net: torch.nn.Module, windows: np.ndarray, names: np.ndarray, families: list[str]) -> None:
    results = embedded(net, windows)
    centre = results.mean(axis=0)
    spread = results.std(axis=0) + 1e-6
    model = LogisticRegression(max_iter=1000).fit((results - centre) / spread, names)
    weight = np.zeros((len(families), results.shape[1]))
    bias = np.full(len(families), -1e3)
    rows = [families.index(name) for name in model.classes_]
    weight[rows] = model.coef_ / spread
    bias[rows] = model.intercept_ - weight[rows] @ centre
    net.head.weight.data, net.head.bias.data = (torch.tensor(a, dtype=torch.float32) for a in (weight, bias))


def embedded(net: torch.nn.Module, windows: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([net.body(part) for part in torch.from_numpy(windows)[:, None].split(256)]).numpy()


def measure(net: torch.nn.Module, families: list[str]) -> dict:
    """On pictures of another seed: how often a window's nearest is of its picture, among 96; and the head's figures."""
    pictures, names = drawn(20 * PICTURES, seed=9)
    first, second = (embedded(net, windows_of(pictures, seed)) for seed in (9, 10))
    centre = first.mean(axis=0)
    spread = first.std(axis=0) + 1e-6
    a, b = (functional.normalize(torch.from_numpy((e - centre) / spread), dim=1) for e in (first, second))
    alike = torch.einsum("gnd,gmd->gnm", a.unflatten(0, (-1, PICTURES)), b.unflatten(0, (-1, PICTURES)))
    is_own = alike.argmax(dim=2) == torch.arange(PICTURES)
    with torch.inference_mode():
        logits = net.head(torch.from_numpy(first))
    is_foreign = torch.tensor([name in foreign.FOREIGN for name in families])
    score = content.compute_foreign_log_odds(logits, is_foreign).numpy()
    return {
        "n": len(pictures),
        "nearest_of_96_is_of_its_picture": round(float(is_own.float().mean()), 3),
        "family": round(float((np.array(families)[logits.argmax(dim=1)] == names).mean()), 3),
        "auroc_foreign": round(auroc(score, np.isin(names, list(foreign.FOREIGN))), 3),
    }


if __name__ == "__main__":
    main()
