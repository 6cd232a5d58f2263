"""Steps of a detectron2 model's training by detectron2's own trainer, on our crops."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from emqa_dask import detectron2_models
from emqa_dask.train import scores
from emqa_dask.train.augment import Crop
from emqa_dask.train.detector_fit import DetectorRounds
from emqa_dask.train.schedules import DetectorSchedule

if TYPE_CHECKING:
    import torch


def check_precision(precision: str, device: str) -> None:
    """ValueError where detectron2's trainer has no such precision on the device."""
    if precision == "bfloat16" and not device.startswith("cuda"):
        raise ValueError("detectron2 trains in bfloat16 on CUDA devices only: take precision float32")


def make_optimiser(model: "torch.nn.Module", schedule: DetectorSchedule) -> "torch.optim.Optimizer":
    """AdamW on detectron2's groups of parameters: no weight decay of norms and biases, nothing of a frozen backbone."""
    import torch
    from detectron2.solver.build import get_default_optimizer_params

    for parameter in _get_bottom_up(model).parameters():
        parameter.requires_grad_(parameter.requires_grad and not schedule.is_backbone_frozen)
    groups = get_default_optimizer_params(
        model, base_lr=schedule.learning_rate, weight_decay=schedule.weight_decay, weight_decay_norm=0.0,
        bias_lr_factor=1.0, weight_decay_bias=0.0,
    )  # fmt: skip
    return torch.optim.AdamW(groups, lr=schedule.learning_rate)


@dataclass
class Detectron2Rounds(DetectorRounds):
    """Steps of a detectron2 model: SimpleTrainer takes them, or on CUDA in bfloat16 AMPTrainer."""

    cfg: Any = None  # the model's config
    _crops: Sequence[Crop] = field(default=(), init=False)  # of the step that is taken

    def __post_init__(self) -> None:
        import torch
        from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer

        max_norm = self.schedule.max_gradient_norm

        class GradientClipping(HookBase):
            """Clips the gradients of each step."""

            def after_backward(self) -> None:
                torch.nn.utils.clip_grad_norm_(self.trainer.model.parameters(), max_norm)

        arguments = (self.training.net, self._iterate_inputs(), self.training.optimiser)
        if self.schedule.precision == "bfloat16":
            self._trainer = AMPTrainer(*arguments, precision=torch.bfloat16)
        else:
            self._trainer = SimpleTrainer(*arguments)
        self._trainer.register_hooks([GradientClipping()])

    def _iterate_inputs(self) -> Iterator[list[dict]]:
        """The data loader of the trainer: the crops of the step in detectron2's form."""
        while True:
            yield [self.make_input(crop) for crop in self._crops]

    def make_input(self, crop: Crop) -> dict:
        """A crop as detectron2's models take it: 8-bit grey levels, boxes x0, y0, x1, y1, classes from 0."""
        import torch
        from detectron2.structures import BitMasks, Boxes, Instances

        grey = detectron2_models.convert_to_uint8(crop.image).astype(np.float32)
        objects = Instances(crop.image.shape)
        objects.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(crop.boxes[:, [1, 0, 3, 2]])))
        objects.gt_classes = torch.from_numpy(crop.labels - 1)
        objects.gt_masks = BitMasks(torch.from_numpy(crop.masks.astype(bool)))
        pixels = np.repeat(grey[None], len(self.cfg.MODEL.PIXEL_MEAN), axis=0)
        return {"image": torch.from_numpy(pixels), "instances": objects}

    def update_weights(self, k: int, crops: Sequence[Crop]) -> dict[str, float]:
        """Lets the trainer take one step, and returns its losses, their sum first."""
        import torch
        from detectron2.utils.events import EventStorage

        set_training_mode(self.training.net, self.schedule)
        torch.manual_seed(hash((self.schedule.seed, k)) % 2**63)
        self._crops = crops
        self._trainer.iter = k
        with EventStorage(k) as storage:
            try:
                self._trainer.run_step()
            except FloatingPointError as error:
                raise FloatingPointError(f"step {k + 1}: {error}; lower the learning rate and resume") from error
            latest = {name: value for name, (value, _) in storage.latest().items()}
        return {"loss": latest["total_loss"]} | {
            name: value for name, value in latest.items() if name.startswith("loss")
        }

    def detect(self, net: "torch.nn.Module", image: np.ndarray) -> scores.Detections:
        """Detections of the model, in evaluation mode, on a normalised image."""
        return detect_objects(net, image, self.cfg)


def detect_objects(model: "torch.nn.Module", image: np.ndarray, cfg: Any) -> scores.Detections:
    """Detections of a model of the config `cfg`, in evaluation mode, on a normalised float32 image (h, w)."""
    import torch
    from pycocotools import mask as coco_mask

    resize = detectron2_models.make_resize(cfg)
    pixels = detectron2_models.prepare_pixels(image, resize, len(cfg.MODEL.PIXEL_MEAN))
    height, width = image.shape
    with torch.inference_mode():
        outputs = model([{"image": torch.from_numpy(pixels), "height": height, "width": width}])
    objects = outputs[0]["instances"].to("cpu")
    masks = objects.pred_masks.numpy().astype(np.uint8)
    return scores.Detections(
        objects.pred_boxes.tensor.numpy()[:, [1, 0, 3, 2]].astype(np.float64),
        objects.scores.numpy(),
        objects.pred_classes.numpy() + 1,
        [coco_mask.encode(np.asfortranarray(mask)) for mask in masks],
    )


def set_training_mode(model: "torch.nn.Module", schedule: DetectorSchedule) -> None:
    """Sets training mode; where the schedule keeps statistics, the backbone's norms stay in evaluation mode."""
    import torch

    model.train()
    if schedule.is_backbone_frozen or schedule.has_frozen_norms:
        for module in _get_bottom_up(model).modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                module.eval()


def _get_bottom_up(model: "torch.nn.Module") -> "torch.nn.Module":
    """The backbone without its pyramid."""
    return getattr(model.backbone, "bottom_up", model.backbone)
