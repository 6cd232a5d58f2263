"""The card of a Mask R-CNN's model directory, checked: what it is, what it was trained for, how images go in."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from emqa_dask import models
from emqa_dask.detect.mask_rcnn.selection import SELECTIONS

TASK = "instance segmentation"
FAMILIES = ("torchvision", "detectron2")
WEIGHTS = "weights.safetensors"
CONFIG = "config.yaml"
PICKLES = (".pth", ".pt", ".pkl", ".pickle", ".ckpt", ".bin")
SCORE_FLOOR = 0.05
MAX_DETECTIONS = 1000
# longest side that goes through the network in one piece, and what tiles share
TILE_PX = 2048
HALO_PX = 128
MIN_BFLOAT16_F1 = 0.98  # of the objects against those in float32: far above the F1 of any detector on real images


@dataclass(frozen=True)
class DetectorCard:
    """What `read` found in a model directory."""

    directory: Path
    digest: str  # SHA-256 of card.toml, which holds those of the files
    name: str
    family: str  # one of FAMILIES
    classes: tuple[str, ...]  # of the objects, background not counted
    architecture: Mapping[str, object]  # torchvision: see networks.build(); both: score_floor, max_detections
    low_percentile: float  # these percentiles of an image become 0 and 1
    high_percentile: float
    tile_px: int  # larger images are cut into tiles of at most this side, px
    halo_px: int  # objects with a radius up to this are complete in the tile that holds their centre, px
    selection: str = "all"  # one of selection.SELECTIONS: which detections from the score floor on are given
    scales: tuple[float, ...] = (1.0,)  # at which the network may see an image: see scale_search
    bfloat16_f1: float = 0.0  # of the objects in bfloat16 against those in float32; 0: not measured

    @property
    def score_floor(self) -> float:
        """Detections below it are not given."""
        return float(self.architecture.get("score_floor", SCORE_FLOOR))

    @property
    def max_detections(self) -> int:
        """At most so many detections of an image, the highest scores."""
        return int(self.architecture.get("max_detections", MAX_DETECTIONS))

    def select_precision(self, device: str) -> str:
        """The precision on `device` where none is set: float32 on CPUs, and where objects in bfloat16 do not agree."""
        return "bfloat16" if device == "cuda" and self.bfloat16_f1 >= MIN_BFLOAT16_F1 else "float32"


def read_detector_card(name: str | Path) -> DetectorCard:
    """The card of a model directory, or of a bundled model, after its files were checked against their SHA-256.

    Raises ModelNotFound where there is no card, and models.ModelError for a file that was changed, a pickle in the
    place of weights, a card of another kind of model, and keys that are missing or make no sense, which it names.
    """
    path = Path(name)
    files = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    pickles = [file.name for file in files if file.suffix in PICKLES]
    if pickles and not (path / WEIGHTS).is_file():
        raise models.ModelError(
            f"{path}: {pickles[0]} is a pickle, which can run any code when it is opened: "
            "make a model directory of it once with `emqa import detector`"
        )
    directory = models.locate_model(str(name))
    card_path = directory / "card.toml"
    table = models.load_model_card(directory)
    if table.get("task") != TASK or table.get("family") not in FAMILIES:
        task_and_family = f"task {table.get('task')!r}, family {table.get('family')!r}"
        raise models.ModelError(
            f"{card_path}: not the card of a Mask R-CNN: {task_and_family}; "
            f"it has to be {TASK!r}, {' or '.join(FAMILIES)}"
        )
    needed = [WEIGHTS, *([CONFIG] if table["family"] == "detectron2" else [])]
    missing = [file for file in needed if file not in table.get("files", {})]
    keys = ["name", "classes", "input", *(["architecture"] if table["family"] == "torchvision" else [])]
    missing += [key for key in keys if not table.get(key)]
    if missing:
        raise models.ModelError(f"{card_path}: lacks {', '.join(missing)}")
    with models.blame_model(directory / "card.toml"):  # values of other kinds than a card's
        return _check_entries(directory, table)


def _check_entries(directory: Path, table: Mapping) -> DetectorCard:
    input_table = table["input"]
    classes = table["classes"]
    architecture = dict(table.get("architecture", {}))
    faults = []
    if not isinstance(classes, list) or not all(isinstance(c, str) for c in classes):
        faults.append("classes has to be a list of names")
    elif architecture.get("n_classes", len(classes)) != len(classes):
        faults.append(f"classes has {len(classes)} names, [architecture] n_classes is {architecture['n_classes']}")
    low, high = input_table.get("low_percentile", 1.0), input_table.get("high_percentile", 99.0)
    if not 0 <= low < high <= 100:
        faults.append(f"[input] percentiles are {low} and {high}: they have to rise within 0...100")
    tile = input_table.get("tile_px", TILE_PX)
    halo = input_table.get("halo_px", HALO_PX)
    if not 0 <= 4 * halo <= tile or tile < 1:
        faults.append(f"[input] tile_px is {tile}, halo_px {halo}: a tile has to be at least four halos wide")
    selection = dict(table.get("output", {})).get("selection", "all")
    if selection not in SELECTIONS:
        faults.append(f"[output] selection is {selection!r}: it has to be {' or '.join(SELECTIONS)}")
    scales = [float(scale) for scale in input_table.get("scales", [1.0])]
    if 1.0 not in scales or not all(1 / 16 <= scale <= 16 for scale in scales):
        faults.append(f"[input] scales are {scales}: 1.0 has to be among them, and all within 0.0625 and 16")
    bfloat16_f1 = float(dict(table.get("precision", {})).get("bfloat16_f1", 0.0))
    if not 0 <= bfloat16_f1 <= 1:
        faults.append(f"[precision] bfloat16_f1 is {bfloat16_f1}: it has to be within 0...1")
    model_card = DetectorCard(
        directory, models.digest_model_card(directory), str(table["name"]), table["family"], tuple(classes),
        architecture, float(low), float(high), int(tile), int(halo), str(selection), tuple(scales), bfloat16_f1,
    )  # fmt: skip
    if not 0 <= model_card.score_floor < 1 or model_card.max_detections < 1:
        faults.append(f"score_floor is {model_card.score_floor}, max_detections {model_card.max_detections}")
    if faults:
        raise models.ModelError(f"{directory / 'card.toml'}: {'; '.join(faults)}")
    return model_card
