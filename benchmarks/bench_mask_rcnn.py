"""The Mask R-CNN stage against plain loops over detectron2's DefaultPredictor and torchvision's model, same weights.

python -m benchmarks.bench_mask_rcnn                                  random weights, drawn images of 1024 x 1024 px
python -m benchmarks.bench_mask_rcnn --model DIR --images DIR DIR     a trained model, real images
python -m benchmarks.bench_mask_rcnn --device cuda --precision float16

A plain loop normalises an image, calls the library's predictor, and encodes each of its masks with pycocotools. The
stage gives the whole table: RLE, area, circularity and diameter too. Both see the same images in turns.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", NUMBA_NUM_THREADS="1")

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from pycocotools.mask import encode

from emqa_dask import detectron2_models, models, networks
from emqa_dask.detect.mask_rcnn import load_detector
from emqa_dask.detect.mask_rcnn.detector import Detector
from emqa_dask.detect.mask_rcnn.detector_card import CONFIG, TASK, WEIGHTS, DetectorCard, read_detector_card
from emqa_dask.detect.normalise import normalise

SMALL = {"backbone": "resnet18", "n_classes": 1, "fpn_channels": 64, "anchor_sizes": [8, 16, 32, 64, 128]}
ZOO = "model_zoo/configs/COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
BOX = ["x0", "y0", "x1", "y1"]


def drawn(size: int, n: int) -> list[np.ndarray]:
    """`n` uint16 images of `size` x `size` px: disks on noise."""
    results = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        image = 20000 + 1500 * rng.standard_normal((size, size))
        for _ in range(round(200 * (size / 1024) ** 2)):
            y, x = rng.integers(0, size, 2)
            cv2.circle(image, (int(x), int(y)), int(rng.uniform(4, 24)), 20000 + float(rng.choice([-6000, 6000])), -1)
        results.append(np.clip(image, 0, 65535).astype(np.uint16))
    return results


def of_folders(folders: list[Path], most: int) -> list[np.ndarray]:
    """Grey images of `folders`, at most `most` a folder, evenly chosen."""
    results = []
    for folder in folders:
        paths = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in (".png", ".jpg", ".jpeg", ".tif", ".tiff")]
        read_ones = [cv2.imread(str(p), cv2.IMREAD_GRAYSCALE | cv2.IMREAD_ANYDEPTH) for p in paths]
        read_ones = [image for image in read_ones if image is not None]
        results += read_ones[:: max(1, -(-len(read_ones) // most))]
    return results


def random_torchvision(folder: Path, detections: int) -> None:
    """A model directory with random weights that gives `detections` of every image."""
    torch.manual_seed(0)
    architecture = SMALL | {"max_detections": detections}
    net = networks.build_detector(architecture)
    with torch.no_grad():
        net.roi_heads.box_predictor.cls_score.weight.mul_(4)
        net.roi_heads.box_predictor.bbox_pred.weight.mul_(5)
        net.roi_heads.box_predictor.cls_score.bias.zero_()
    networks.save_weights(net, folder / WEIGHTS)
    _write(folder, "torchvision", architecture, ["object"])


def random_detectron2(folder: Path, detections: int, change: dict) -> None:
    """The same for detectron2's R_50_FPN, with `change` made to its config."""
    import detectron2
    from detectron2.config import CfgNode, get_cfg

    cfg = get_cfg()
    cfg.merge_from_file(str(Path(detectron2.__file__).parent / ZOO), allow_unsafe=False)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.WEIGHTS = cfg.OUTPUT_DIR = ""
    cfg.merge_from_other_cfg(CfgNode(change))
    (folder / CONFIG).write_text(cfg.dump(), encoding="utf-8")
    torch.manual_seed(0)
    model, _ = detectron2_models.build(folder / CONFIG, 0.05, detections, "cpu")
    with torch.no_grad():
        for name, module in model.named_modules():  # as after training: nothing grows from layer to layer
            if name.endswith("norm"):
                module.weight.fill_(1 / 60 if "stem" in name else 0.1 if "conv3" in name else 1.0)
        model.roi_heads.box_predictor.bbox_pred.weight.mul_(20)
    networks.save_weights(model, folder / WEIGHTS)
    limits = {"score_floor": 0.05, "max_detections": detections}
    _write(folder, "detectron2", limits, ["object"])


def _write(folder: Path, family: str, architecture: dict, classes: list[str]) -> None:
    options = {"low_percentile": 1.0, "high_percentile": 99.0}
    card = {"name": f"random {family}", "task": TASK, "family": family, "classes": classes, "input": options}
    models.write_model_card(folder, card | {"architecture": architecture})


def plain_torchvision(card: DetectorCard, device: str) -> Callable:
    """image -> (boxes x0 y0 x1 y1, RLE): torchvision's model as it is."""
    net = networks.build_detector(card.architecture)
    networks.load_weights(net, card.directory / WEIGHTS)
    net.to(device)
    channels = len(net.transform.image_mean)

    def detect(image: np.ndarray):
        pixels = torch.from_numpy(normalise(image, card.low_percentile, card.high_percentile)).to(device)
        with torch.no_grad():
            (results,) = net([pixels[None].expand(channels, -1, -1)])
        masks = (results["masks"][:, 0] > 0.5).cpu().numpy()
        return results["boxes"].cpu().numpy(), [encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]

    return detect


def plain_detectron2(card: DetectorCard, device: str) -> Callable:
    """image -> (boxes x0 y0 x1 y1, RLE): detectron2's DefaultPredictor as it is."""
    from detectron2.config import CfgNode, get_cfg
    from detectron2.engine import DefaultPredictor

    cfg = get_cfg()
    cfg.merge_from_other_cfg(CfgNode(yaml.safe_load((card.directory / CONFIG).read_text(encoding="utf-8"))))
    cfg.MODEL.DEVICE = device
    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST = card.score_floor
    cfg.TEST.DETECTIONS_PER_IMAGE = card.max_detections
    predictor = DefaultPredictor(cfg)
    networks.load_weights(predictor.model, card.directory / WEIGHTS)

    def detect(image: np.ndarray):
        pixels = np.clip(normalise(image, card.low_percentile, card.high_percentile), 0, 1)
        grey = np.rint(255 * pixels).astype(np.uint8)
        results = predictor(np.repeat(grey[..., None], 3, axis=2))["instances"].to("cpu")
        masks = results.pred_masks.numpy()
        return results.pred_boxes.tensor.numpy(), [encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]

    return detect


PLAIN = {"torchvision": plain_torchvision, "detectron2": plain_detectron2}


def alternating(detector: Detector, plain: Callable, images: list[np.ndarray], rounds: int) -> dict:
    """Seconds of all images in turns, their medians, and how far the results agree."""
    seconds: dict[str, list[float]] = {"stage": [], "plain": []}
    detector.detect(images[:1]), plain(images[0])
    for k in range(rounds):
        for name in ("stage", "plain") if k % 2 else ("plain", "stage"):
            start = time.perf_counter()
            if name == "stage":
                tables = detector.detect(images)
            else:
                loop = [plain(image) for image in images]
            seconds[name].append(time.perf_counter() - start)
    counts = [(len(rows), len(boxes)) for rows, (boxes, _) in zip(tables, loop)]
    same = [
        rle == coded["counts"].decode() and np.allclose(box, other, rtol=0, atol=1e-2)
        for rows, (boxes, coded_ones) in zip(tables, loop)
        for rle, box, other, coded in zip(rows["mask_rle"], rows[BOX].to_numpy(), boxes, coded_ones)
    ]
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "images": len(images),
        "pixels": [list(image.shape) for image in images],
        "detections": [n for n, _ in counts],
        "detections_plain": [n for _, n in counts],
        "same_box_and_mask": float(np.mean(same)) if same else None,
        "seconds": seconds,
        "images_per_s": {name: len(images) / value for name, value in middle.items()},
        "times_faster": middle["plain"] / middle["stage"],
    }


def where_time_goes(loaded: Detector, images: list[np.ndarray]) -> dict[str, float]:
    """Share of each step in the time of `detect`; steps that run beside each other can add up to more than 1."""
    spent = dict.fromkeys(("normalise", "network", "paste", "runs", "measure and RLE and table"), 0.0)

    def timed(step: str, function: Callable) -> Callable:
        def call(*args):
            start = time.perf_counter()
            try:
                return function(*args)
            finally:
                spent[step] += time.perf_counter() - start

        return call

    def paste(*args):
        start = time.perf_counter()
        for crop in loaded._network.paste_masks(*args):
            spent["paste"] += time.perf_counter() - start
            yield crop
            start = time.perf_counter()

    network = loaded._network
    timed_network = network._replace(predict_objects=timed("network", network.predict_objects), paste_masks=paste)
    if network.find_runs:  # on a GPU, beside the network
        timed_network = timed_network._replace(find_runs=timed("paste", network.find_runs))
    detector = Detector(loaded.card, timed_network, loaded.device)
    detector._normalise_piece = timed("normalise", detector._normalise_piece)
    detector._make_result = timed("measure and RLE and table", detector._make_result)
    detector._collect_objects = timed("runs", detector._collect_objects)
    start = time.perf_counter()
    detector.detect(images)
    whole = time.perf_counter() - start
    if not network.find_runs:
        spent["runs"] -= spent["paste"]
    return {step: value / whole for step, value in spent.items()}


def peak_memory(options: argparse.Namespace, directory: Path, name: str) -> int | None:
    """Peak resident memory (bytes) of the stage or the plain loop on all images, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_mask_rcnn", "--model", str(directory), "--alone", name]
    command += ["--threads", str(options.threads)]
    command += ["--size", str(options.size), "--number", str(options.number), "--most", str(options.most)]
    command += ["--device", options.device, *(["--images", *map(str, options.images)] if options.images else [])]
    process = subprocess.run(command, capture_output=True, text=True)
    return int(process.stdout.split()[-1]) if process.returncode == 0 else None


def high_water() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def measured(directory: Path, images: list[np.ndarray], options: argparse.Namespace) -> dict:
    card = read_detector_card(directory)
    detector = load_detector(directory, options.device, options.precision)
    figures = alternating(detector, PLAIN[card.family](card, options.device), images, options.rounds)
    figures["share_of_time"] = where_time_goes(detector, images)
    if not options.no_memory and options.device == "cpu":
        figures["peak_bytes"] = {name: peak_memory(options, directory, name) for name in ("stage", "plain")}
    speed = figures["images_per_s"]
    share = figures["share_of_time"]
    print(f"\n{card.family}, {card.name}: {len(images)} images, {sum(figures['detections'])} detections")
    print(f"  stage {speed['stage']:.3f} images/s, plain {speed['plain']:.3f}: {figures['times_faster']:.2f} times")
    print(f"  same box and mask: {figures['same_box_and_mask']}")
    print("  time: " + ", ".join(f"{step} {100 * value:.1f} %" for step, value in share.items()))
    for name, peak in figures.get("peak_bytes", {}).items():
        print(f"  peak memory, {name}: " + (f"{peak / 2**20:.0f} MiB" if peak else "not measured"))
    return figures


def parser() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--model", type=Path, help="model directory; default: random weights, both families")
    options.add_argument("--images", type=Path, nargs="+", default=[], help="folders of images; default: drawn ones")
    options.add_argument("--most", type=int, default=8, help="images of a folder")
    options.add_argument("--size", type=int, default=1024, help="height and width of drawn images, px")
    options.add_argument("--number", type=int, default=4, help="drawn images")
    options.add_argument("--detections", type=int, nargs="+", default=[100, 1000], help="per image, random weights")
    options.add_argument("--families", nargs="+", choices=tuple(PLAIN), default=list(PLAIN))
    options.add_argument("--small", action="store_true", help="a small detectron2 network in the place of R_50_FPN")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--threads", type=int, default=1)
    options.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    options.add_argument("--precision", default="float32", help="of the stage; the plain loops are float32")
    options.add_argument("--no-memory", action="store_true", help="leave out the peak memory, a process each")
    options.add_argument("--json", type=Path, metavar="OUT", help="write all figures to this file")
    options.add_argument("--alone", choices=("stage", "plain"), help=argparse.SUPPRESS)
    return options


def main() -> None:
    options = parser().parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(options.threads)
    cv2.setNumThreads(1)
    images = of_folders(options.images, options.most) if options.images else drawn(options.size, options.number)
    runs_of = {}
    if options.alone:
        card = read_detector_card(options.model)
        if options.alone == "stage":
            load_detector(options.model, options.device).detect(images)
        else:
            detect = PLAIN[card.family](card, options.device)
            [detect(image) for image in images]
        print(high_water())
        return
    if options.model:
        runs_of["model"] = measured(options.model, images, options)
    with tempfile.TemporaryDirectory() as folder:
        for family in () if options.model else options.families:
            for n in options.detections:
                directory = Path(folder) / f"{family}-{n}"
                directory.mkdir()
                if family == "torchvision":
                    random_torchvision(directory, n)
                else:
                    narrow = {"MODEL": {"FPN": {"OUT_CHANNELS": 64}, "ROI_BOX_HEAD": {"FC_DIM": 256},
                                        "ROI_MASK_HEAD": {"CONV_DIM": 64}}}  # fmt: skip
                    random_detectron2(directory, n, narrow if options.small else {})
                runs_of[f"{family}, {n} detections"] = measured(directory, images, options)
    if options.json:
        about = {"machine": f"{platform.machine()}, {platform.platform()}", "threads": options.threads}
        about |= {"torch": torch.__version__, "device": options.device, "precision": options.precision}
        options.json.write_text(json.dumps(about | {"runs": runs_of}, indent=1))


if __name__ == "__main__":
    main()
