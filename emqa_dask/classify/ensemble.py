"""Ensembles in memory: one network, MC dropout or a deep ensemble, with the outputs of every member."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from emqa_dask import classifiers, windows
from emqa_dask.classify import classifier_card, content
from emqa_dask.classify.evaluation import make_evaluator

if TYPE_CHECKING:
    import torch

BATCH_WINDOWS = {"cpu": 64, "cuda": 1024}  # windows that go through the networks at once
EVALUATION_METHOD = (
    "loop"  # of evaluation.EVALUATION_METHODS, the fastest on CPU and GPU: see benchmarks/bench_ensemble.py
)


class ImageOutputs(NamedTuple):
    """Outputs of all members for one image."""

    probabilities: NDArray[np.float32]  # (members, classes): mean over the windows
    embeddings: NDArray[np.float32]  # (members, d): mean over the windows
    window_probabilities: NDArray[np.float32]  # (members, rows, columns, classes)
    window_boxes: NDArray[np.float64]  # (rows, columns, 4): y0, x0, y1, x1 in the image, half-open, px
    content: NDArray[np.float32]  # (d,): content embedding, mean over the windows; see classify.content
    foreign_log_odds: float  # that the image is no micrograph; mean over the windows


class _WindowGrids(NamedTuple):
    """Prepared images and the corners of their windows; windows of all images are numbered consecutively."""

    images: list[NDArray[np.float32]]
    corners: list[NDArray[np.int64]]  # (rows, columns, 2) for each image
    image_numbers: NDArray[np.int64]  # (windows,): number of the image of each window
    places: NDArray[np.int64]  # (windows, 2): first row and column of each window

    @property
    def ends(self) -> NDArray[np.int64]:
        """(images + 1,): windows ends[k] to ends[k + 1] are those of image k."""
        counts = [corners.shape[0] * corners.shape[1] for corners in self.corners]
        return np.concatenate([[0], np.cumsum(counts)])


class Ensemble:
    """An ensemble in memory; made by `loading.load_ensemble`.

    The members are networks, or the stochastic passes of MC dropout. A single network is one member.
    """

    def __init__(
        self,
        model_card: classifier_card.ClassifierCard,
        nets: Sequence["torch.nn.Module"],
        device: str,
        evaluation: str | None = None,
        precision: str = "float32",
        backbone: "torch.nn.ModuleDict | None" = None,  # shared by all members, which are heads on its features
    ) -> None:
        import torch

        self.card = model_card
        self.device = device
        self.precision = precision
        self._nets = [net.to(device, getattr(torch, precision)).eval() for net in nets]
        self._backbone = None if backbone is None else backbone.to(device, getattr(torch, precision)).eval()
        is_single = len(nets) == 1  # MC dropout sets the pass of its network, which works in the loop only
        self._evaluate = make_evaluator(self._nets, EVALUATION_METHOD if is_single else evaluation or EVALUATION_METHOD)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, in the order of the last axis of every probability."""
        return self.card.classes

    @property
    def n_members(self) -> int:
        """Length of the first axis of the outputs."""
        return self.card.passes if self.card.method == "dropout" else len(self._nets)

    @property
    def member_numbers(self) -> tuple[int, ...]:
        """Place on the card, or pass, of each member; a member that is left out leaves a gap."""
        if self.card.method == "dropout":
            return tuple(range(self.card.passes))
        return tuple(map(self.card.members.index, self.card.files))[: len(self._nets)]

    @property
    def member_summary(self) -> str:
        """How many members are used, and the faults of the others."""
        text = f"{len(self._nets)} of {self.card.n_members} members"
        return text + "".join(f"; {file}: {fault}" for file, fault in self.card.faults.items())

    def explain_refusal(self, shape: tuple[int, ...]) -> str:
        """Why an image of `shape` cannot be classified; "" when it can."""
        return windows.explain_refusal(shape, self.card.window_settings)

    def predict_probabilities(self, images: Sequence[NDArray]) -> NDArray[np.float32]:
        """Softmax (members, n, classes) float32 of n images (h, w) of any real dtype and any sizes.

        An image larger than a window gets the mean over its windows. Raises ValueError, naming the image by its
        number, for one that is smaller than a window or not two-dimensional and real.
        """
        outputs = [output.probabilities for output in self.classify_images(images)]
        return np.stack(outputs, axis=1) if outputs else np.zeros((self.n_members, 0, len(self.classes)), np.float32)

    def classify_images(self, images: Sequence[NDArray]) -> list[ImageOutputs]:
        """Outputs of all members for each image, window by window. Errors: as `predict_probabilities`."""
        if not len(images):
            return []
        grids = self._place_windows(images)
        p = []
        contents = []
        log_odds = []
        embedding_sums = 0.0
        for start in range(0, len(grids.places), BATCH_WINDOWS[self.device]):
            batch = slice(start, start + BATCH_WINDOWS[self.device])
            stack = self._cut_windows(grids, batch)
            batch_p, batch_embeddings = self.predict_windows(stack)
            batch_contents, batch_odds = content.embed_windows(stack, self.device)
            p.append(batch_p)
            contents.append(batch_contents)
            log_odds.append(batch_odds)
            embedding_sums = embedding_sums + _sum_by_image(batch_embeddings, grids.image_numbers[batch], len(images))
        window_values = np.concatenate(p, axis=1), np.concatenate(contents), np.concatenate(log_odds)
        return [self._collect_outputs(k, images[k], grids, window_values, embedding_sums) for k in range(len(images))]

    def _place_windows(self, images: Sequence[NDArray]) -> _WindowGrids:
        """The images in [0, 1] and their windows; ValueError names the number of an image that cannot be classified."""
        prepared = []
        for k, image in enumerate(images):
            try:
                prepared.append(windows.normalise_image(image, self.card.window_settings))
            except ValueError as error:
                raise ValueError(f"image {k}: {error}") from error
        corners = [windows.compute_corners(image.shape, self.card.window_settings) for image in prepared]
        image_numbers = np.repeat(np.arange(len(images)), [grid.shape[0] * grid.shape[1] for grid in corners])
        return _WindowGrids(prepared, corners, image_numbers, np.concatenate([grid.reshape(-1, 2) for grid in corners]))

    def _cut_windows(self, grids: _WindowGrids, batch: slice) -> NDArray[np.float32]:
        """Copies (n, size, size) of some windows: all windows of a large image would need too much memory."""
        numbered_corners = zip(grids.image_numbers[batch], grids.places[batch])
        settings = self.card.window_settings
        return np.stack(
            [windows.cut_window(grids.images[owner], corner, settings) for owner, corner in numbered_corners]
        )

    def _collect_outputs(
        self,
        k: int,
        image: NDArray,
        grids: _WindowGrids,
        window_values: tuple[NDArray, NDArray, NDArray],
        embedding_sums: NDArray,
    ) -> ImageOutputs:
        """Outputs of image `k`, from those of all windows."""
        corners = grids.corners[k]
        ends = grids.ends
        image_windows = slice(ends[k], ends[k + 1])
        p, contents, log_odds = window_values
        own_p = p[:, image_windows]
        scale = np.array(np.shape(image)) / grids.images[k].shape
        end_corners = corners + self.card.window_settings.size_px
        return ImageOutputs(
            own_p.mean(axis=1),
            (embedding_sums[:, k] / (ends[k + 1] - ends[k])).astype(np.float32),
            own_p.reshape(len(own_p), *corners.shape[:2], -1),
            np.concatenate([corners * scale, end_corners * scale], axis=-1),
            contents[image_windows].mean(axis=0),
            float(log_odds[image_windows].mean()),
        )

    def predict_windows(self, stack: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Softmax (members, n, classes) and embeddings (members, n, d) of windows (n, size, size) in [0, 1]."""
        size_px = self.card.window_settings.size_px
        if stack.ndim != 3 or stack.shape[1:] != (size_px, size_px):
            raise ValueError(f"windows of shape {stack.shape}: they have to be (n, {size_px}, {size_px})")
        batch_size = BATCH_WINDOWS[self.device]
        batches = [self._predict_batch(stack[k : k + batch_size]) for k in range(0, max(1, len(stack)), batch_size)]
        p, embeddings = (np.concatenate(part, axis=1) for part in zip(*batches))
        return p.astype(np.float32, copy=False), embeddings.astype(np.float32, copy=False)

    def _predict_batch(self, stack: NDArray[np.float32]) -> tuple[NDArray, NDArray]:
        """Softmax and embeddings of one batch of windows; MC dropout evaluates one pass after the other."""
        import torch

        passes = range(self.n_members) if self.card.method == "dropout" else [None]
        probabilities = []
        embeddings = []
        with torch.inference_mode():
            pixels = np.ascontiguousarray(stack[:, None], np.float32)
            images = torch.from_numpy(pixels).to(self.device, getattr(torch, self.precision))
            images = images.expand(-1, self.card.architecture["channels"], -1, -1)
            if self._backbone is not None:
                images = classifiers.compute_picture_features(self._backbone, images)
            for number in passes:
                seed = None if number is None else self.card.seed
                classifiers.set_dropout_pass(self._nets[0], seed, number or 0)
                logits, embedding = self._evaluate(images)
                probabilities.append(logits.float().softmax(dim=-1).cpu().numpy())
                embeddings.append(embedding.float().cpu().numpy())
        return np.concatenate(probabilities), np.concatenate(embeddings)


def _sum_by_image(embeddings: NDArray, image_numbers: NDArray, n_images: int) -> NDArray[np.float64]:
    """Sums (members, images, d) of windows' embeddings (members, windows, d)."""
    sums = np.zeros((len(embeddings), n_images, embeddings.shape[2]))
    np.add.at(sums, np.s_[:, image_numbers], embeddings)
    return sums
