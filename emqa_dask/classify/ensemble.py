"""load_ensemble(): one network, MC dropout or a deep ensemble, from its model directory; every member's word is kept"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, models, networks, windows
from emqa_dask.classify import card as cards
from emqa_dask.classify import content
from emqa_dask.classify.evaluation import make_evaluator
from emqa_dask.settings.stages import PRECISIONS

BATCH_WINDOWS = {"cpu": 64, "cuda": 1024}  # windows that go through the networks at once
EVALUATION = "loop"  # of together.WAYS, the fastest on CPU and GPU: see benchmarks/bench_ensemble.py


class ImageOutputs(NamedTuple):
    """What the members say of one image; the entropy of `regions` is the image's map."""

    probabilities: NDArray[np.float32]  # (members, classes): the mean over the windows
    embeddings: NDArray[np.float32]  # (members, d): the mean over the windows
    regions: NDArray[np.float32]  # (members, rows, columns, classes): of each window
    boxes: NDArray[np.float64]  # (rows, columns, 4): the windows in the image: y0, x0, y1, x1, half-open, px
    content: NDArray[np.float32]  # (d,): see classify.content, the mean over the windows
    foreign_log_odds: float  # that they show no micrograph: the same


class Ensemble:
    """An ensemble in memory. Members are networks, or the passes of MC dropout; a single network is one member."""

    def __init__(
        self,
        card: cards.ClassifierCard,
        nets: Sequence,
        device: str,
        way: str | None = None,
        precision: str = "float32",
    ):
        import torch

        self.card = card
        self.device = device
        self.precision = precision
        self._nets = [net.to(device, getattr(torch, precision)).eval() for net in nets]
        alone = len(nets) == 1  # and only in the loop does dropout know of its pass
        self._way = make_evaluator(self._nets, EVALUATION if alone else way or EVALUATION)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the last axis of every probability."""
        return self.card.classes

    @property
    def n_members(self) -> int:
        """Length of the first axis of what `probabilities` gives."""
        return self.card.passes if self.card.method == "dropout" else len(self._nets)

    @property
    def numbers(self) -> tuple[int, ...]:
        """Which member each is: its place on the card, or its pass. A member that is left out leaves a gap."""
        if self.card.method == "dropout":
            return tuple(range(self.card.passes))
        return tuple(map(self.card.members.index, self.card.files))[: len(self._nets)]

    @property
    def used(self) -> str:
        """How many members are at work and what is wrong with the others, in words."""
        text = f"{len(self._nets)} of {self.card.n_members} members"
        return text + "".join(f"; {file}: {why}" for file, why in self.card.faults.items())

    def refusal(self, shape: tuple[int, ...]) -> str:
        """Why an image of `shape` cannot be judged; "" when it can."""
        return windows.explain_refusal(shape, self.card.view)

    def probabilities(self, images: Sequence[NDArray]) -> NDArray[np.float32]:
        """Softmax (members, n, classes) float32 of n images (h, w) of any real dtype and any sizes.

        Of an image larger than a window: the mean over its windows. Raises ValueError, naming the image by its place,
        for one that is smaller than a window or not two-dimensional and real.
        """
        found = [examined.probabilities for examined in self.examine(images)]
        return np.stack(found, axis=1) if found else np.zeros((self.n_members, 0, len(self.classes)), np.float32)

    def examine(self, images: Sequence[NDArray]) -> list[ImageOutputs]:
        """All that the members say of each image, window by window. Errors: as `probabilities`."""
        view = self.card.view
        pictures = []
        grids = []
        for k, image in enumerate(images):
            try:
                pictures.append(windows.normalise_image(image, view))
            except ValueError as error:
                raise ValueError(f"image {k}: {error}") from error
            grids.append(windows.compute_corners(pictures[k].shape, view))
        if not pictures:
            return []
        counts = [grid.shape[0] * grid.shape[1] for grid in grids]
        ends = np.cumsum(counts)
        owners = np.repeat(np.arange(len(grids)), counts)
        places = np.concatenate([grid.reshape(-1, 2) for grid in grids])
        said = []
        sums = 0.0
        shown = []
        for start in range(
            0, len(places), BATCH_WINDOWS[self.device]
        ):  # windows are copies: never all of an image's at once
            chosen = slice(start, start + BATCH_WINDOWS[self.device])
            stack = [windows.cut_window(pictures[o], place, view) for o, place in zip(owners[chosen], places[chosen])]
            stack = np.stack(stack)
            p, e = self.look(stack)
            said.append(p)
            shown.append(content.embed_windows(stack, self.device))
            part = np.zeros((len(e), len(pictures), e.shape[2]))
            np.add.at(part, np.s_[:, owners[chosen]], e)
            sums = sums + part
        p = np.concatenate(said, axis=1)
        found = []
        contents, odds = (np.concatenate(part) for part in zip(*shown))
        for k, grid in enumerate(grids):
            its = slice(ends[k] - counts[k], ends[k])
            own = p[:, its]
            scale = np.array(np.shape(images[k])) / pictures[k].shape
            boxes = np.concatenate([grid * scale, (grid + view.size_px) * scale], axis=-1)
            vectors = (sums[:, k] / counts[k]).astype(np.float32)
            maps = own.reshape(len(own), *grid.shape[:2], -1)
            there = contents[its].mean(axis=0), float(odds[its].mean())
            found.append(ImageOutputs(own.mean(axis=1), vectors, maps, boxes, *there))
        return found

    def look(self, stack: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Softmax (members, n, classes) and embeddings (members, n, d) of windows (n, size, size) in [0, 1]."""
        import torch

        size = self.card.view.size_px
        if stack.ndim != 3 or stack.shape[1:] != (size, size):
            raise ValueError(f"windows of shape {stack.shape}: they have to be (n, {size}, {size})")
        passes = range(self.n_members) if self.card.method == "dropout" else [None]
        found = []
        with torch.inference_mode():
            for start in range(0, max(1, len(stack)), BATCH_WINDOWS[self.device]):
                batch = np.ascontiguousarray(stack[start : start + BATCH_WINDOWS[self.device], None], np.float32)
                images = torch.from_numpy(batch).to(self.device, getattr(torch, self.precision))
                images = images.expand(-1, self.card.architecture["channels"], -1, -1)
                said = []
                for number in passes:
                    classifiers.set_dropout_pass(self._nets[0], None if number is None else self.card.seed, number or 0)
                    logits, embedding = self._way(images)
                    said.append((logits.float().softmax(dim=-1).cpu().numpy(), embedding.float().cpu().numpy()))
                found.append([np.concatenate(part) for part in zip(*said)])
        p, e = (np.concatenate(part, axis=1) for part in zip(*found))
        return p.astype(np.float32, copy=False), e.astype(np.float32, copy=False)


def load_ensemble(
    name: str | Path,
    device: str = "cpu",
    *,
    method: str | None = None,
    classes: Sequence[str] | None = None,
    precision: str = "float32",
) -> Ensemble:
    """The ensemble in a model directory, or a bundled one by its name, on `device` ("cpu" or "cuda").

    `method` overrides the card's: "softmax" takes the first member alone, "dropout" its stochastic passes. `classes`
    are those that the caller counts on. `precision` of the networks: bfloat16 and float16 are faster where hardware has
    them, and probabilities then come within some 0.01. The same directory, unchanged, is loaded once per process.
    Members that are missing or corrupt are left out (`Ensemble.used` tells); models.ModelError when too few are left,
    and for what the card has wrong (see card.read); ValueError for classes that are not the card's, ModelNotFound
    without card, RuntimeError when "cuda" has no GPU.
    """
    if device not in BATCH_WINDOWS:
        raise ValueError(f"device is {device!r}: it has to be 'cpu' or 'cuda'")
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}: it is one of {', '.join(PRECISIONS)}")
    card = cards.read_classifier_card(name)
    if method is not None and method not in cards.METHODS:
        raise ValueError(f"method is {method!r}: it is one of {', '.join(cards.METHODS)}")
    if classes is not None:
        card.check_classes(classes)
    # Members may vanish while the card stays: they are part of what makes a loaded ensemble the same.
    return _load_ensemble(
        str(card.directory.resolve()), card.digest, card.files, device, method or card.method, precision
    )


@lru_cache(maxsize=4)
def _load_ensemble(
    directory: str, digest: str, files: tuple[str, ...], device: str, method: str, precision: str
) -> Ensemble:
    import torch
    from safetensors import SafetensorError

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("device 'cuda' was asked for, but there is no usable GPU here")
    card = cards.read_classifier_card(directory)
    if method == "dropout" and not card.architecture["dropout"]:
        raise models.ModelError(f"{directory}: method 'dropout' needs a network trained with dropout: take another one")
    nets = []
    faults = dict(card.faults)
    for file in card.files:
        with models.blame_model(card.directory):
            net = classifiers.build_classifier(card.architecture)
        try:
            networks.load_weights(net, card.directory / file)
        except (ValueError, OSError, SafetensorError) as error:
            faults[file] = str(error)
        else:
            nets.append(net)
    usable = tuple(file for file in card.files if file not in faults)
    card = replace(card, files=usable, faults=faults, method=method)
    cards.check_members(card)
    return Ensemble(card, nets if method == "ensemble" else nets[:1], device, precision=precision)
