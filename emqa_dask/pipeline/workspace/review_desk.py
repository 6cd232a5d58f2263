"""What the page of the review asks for and stores: queue, pixels, objects, decisions of several reviewers."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from emqa_dask import tables
from emqa_dask.pipeline.workspace.review_queue import ReviewImages, read_queue
from emqa_dask.review.decisions import IMAGE, select_current
from emqa_dask.review.server import Answer, RequestError
from emqa_dask.settings import Settings
from emqa_dask.store import decisions
from emqa_dask.store.layout import Workspace

MAX_OBJECTS = 100_000  # of an image
MAX_WINDOW_PX = 2**26  # sent at once: more than a screen shows
MAX_NAME = 80  # characters of a reviewer's name
MAX_COMMENT = 2000  # characters
CORNERS = ("y0", "x0", "y1", "x1")
SHOWN_COLUMNS = ["uri", "frame", "verdict", "why", "explanation"]


class ReviewDesk:
    """The queue of a workspace and the decisions on its images; several threads may use it."""

    def __init__(self, workspace: Workspace, settings: Settings, reviewer: str = ""):
        self._workspace = workspace
        self._reviewer = reviewer
        self._images = ReviewImages(workspace, settings)
        self._queue = {row["micrograph_id"]: row for row in read_queue(workspace, settings).to_dict("records")}
        self._ids = {tuple(row[name] for name in IMAGE): key for key, row in self._queue.items()}
        self._lock = threading.Lock()
        self._decisions = tables.empty(tables.DECISIONS)
        self._read_new_decisions()
        self.reads = {
            "/api/queue": self.list_images,
            "/api/state": self.list_states,
            "/api/objects": self.list_objects,
            "/api/pixels": self.read_pixels,
        }
        self.writes = {"/api/decide": self.decide, "/api/undo": self.undo}

    def __len__(self) -> int:
        return len(self._queue)

    def list_images(self, _: Mapping) -> Answer:
        """The queue in its order."""
        images = [
            {"id": key, "height": int(row["height_px"]), "width": int(row["width_px"])}
            | {name: None if pd.isna(row[name]) else row[name] for name in SHOWN_COLUMNS}
            for key, row in self._queue.items()
        ]
        return Answer({"reviewer": self._reviewer, "images": images})

    def list_states(self, _: Mapping) -> Answer:
        """The current decision of every reviewer on each image, also those of other servers of the workspace."""
        self._read_new_decisions()
        states: dict[str, dict[str, str]] = {}
        for row in self._select_current().to_dict("records"):
            if key := self._find_id(row):
                states.setdefault(key, {})[row["reviewer"]] = row["decision"]
        return Answer(states)

    def list_objects(self, values: Mapping) -> Answer:
        """Boxes of the detections, and the objects of each reviewer who stated them before."""
        image = self._find_image(values)
        detections = self._images.read_objects(image)
        boxes = [[entry[name] for name in CORNERS] for entry in detections]
        numbers = {tuple(box): k for k, box in enumerate(boxes)}
        current = self._select_current()
        current = current[(current[IMAGE] == [image[name] for name in IMAGE]).all(axis=1) & current["objects"].notna()]
        objects = {}
        for name, entries in zip(current["reviewer"], current["objects"], strict=True):
            stated = [[entry[corner] for corner in CORNERS] for entry in entries]
            objects[name] = [{"box": box, "k": numbers.get(tuple(box))} for box in stated]
        detector = None if pd.isna(image["detector"]) else image["detector"]
        return Answer({"detector": detector, "detections": boxes, "objects": objects})

    def read_pixels(self, values: Mapping) -> Answer:
        """A window of an image as little-endian uint16, row after row."""
        image = self._find_image(values)
        y0, x0 = (_parse_whole(values, name) for name in CORNERS[:2])
        y1, x1 = (_parse_whole(values, name) for name in CORNERS[2:])
        step = _parse_whole(values, "step")
        if not (0 <= y0 < y1 <= image["height_px"] and 0 <= x0 < x1 <= image["width_px"] and step >= 1):
            raise RequestError("the window is outside the image")
        if (y1 - y0) * (x1 - x0) / step**2 > MAX_WINDOW_PX:
            raise RequestError("the window is too large")
        pixels = self._images.read_pixels(image, (y0, x0, y1, x1), step)
        return Answer(pixels.codes.tobytes(), {"X-Width": str(pixels.codes.shape[1])})

    def decide(self, values: Mapping) -> Answer:
        """The identity of a decision, once it is stored."""
        image = self._find_image(values)
        kind = values.get("decision")
        if kind not in tables.DECISION_KINDS:
            raise RequestError(f"a decision is one of {', '.join(tables.DECISION_KINDS)}")
        comment = values.get("comment") or None
        if comment is not None and not (isinstance(comment, str) and len(comment) <= MAX_COMMENT):
            raise RequestError(f"a comment is a text of at most {MAX_COMMENT} characters")
        objects = self._complete_objects(image, values.get("objects")) if kind == "accept" else None
        return self._store(image, values, {"decision": kind, "comment": comment, "objects": objects, "undoes": None})

    def undo(self, values: Mapping) -> Answer:
        """The image of the reviewer's last decision, once it is stored that this one is taken back."""
        self._read_new_decisions()
        reviewer = _parse_name(values)
        current = self._select_current()
        own = [row for row in current[current["reviewer"] == reviewer].to_dict("records") if self._find_id(row)]
        if not own:
            raise RequestError(f"{reviewer} has no decision to take back")
        image = self._queue[self._find_id(own[-1])]
        undo = {"decision": None, "comment": None, "objects": None, "undoes": own[-1]["decision_id"]}
        return self._store(image, values, undo)

    def _store(self, image: dict, values: Mapping, decision: dict) -> Answer:
        reviewer = _parse_name(values)
        probability = image["review_probability"]
        shared = {
            **{name: image[name] for name in ("micrograph_id", *IMAGE)},
            "detector": None if pd.isna(image["detector"]) else image["detector"],
            "reviewer": reviewer,
            "review_probability": None if pd.isna(probability) else float(probability),
            "plan_id": None if pd.isna(image["plan_id"]) else image["plan_id"],
        }
        with self._lock:
            row = {**shared, **decision, "time": self._choose_time(reviewer)}
            decision_id = decisions.write_decision(self._workspace.uri, row)
            self._add([{"decision_id": decision_id, **row}])
        return Answer({"decision_id": decision_id, "id": image["micrograph_id"]})

    def _choose_time(self, reviewer: str) -> str:
        """Now, or just after the reviewer's last decision where the clock was set back."""
        moment = datetime.now(UTC)
        times = self._decisions.loc[self._decisions["reviewer"] == reviewer, "time"]
        if len(times):
            moment = max(moment, datetime.fromisoformat(times.max()) + timedelta(microseconds=1))
        return moment.isoformat(timespec="microseconds")

    def _add(self, rows: list[dict]) -> None:
        new_rows = tables.conform(rows, tables.DECISIONS).to_pandas()
        self._decisions = pd.concat([self._decisions, new_rows]) if len(self._decisions) else new_rows

    def _read_new_decisions(self) -> None:
        with self._lock:
            rows = decisions.read_decisions(self._workspace.uri, set(self._decisions["decision_id"]))[0]
            if len(rows):
                self._decisions = pd.concat([self._decisions, rows]) if len(self._decisions) else rows

    def _select_current(self) -> pd.DataFrame:
        return select_current(self._decisions)

    def _find_id(self, row: Mapping) -> str:
        """The image of the queue with the pixels that a decision is about; "" for none."""
        return self._ids.get(tuple(row[name] for name in IMAGE), "")

    def _find_image(self, values: Mapping) -> dict:
        image = self._queue.get(str(values.get("id")))
        if image is None:
            raise RequestError("the queue has no such image")
        return image

    def _complete_objects(self, image: dict, entries: object) -> list[dict]:
        """The objects of a decision: detections by their numbers, and boxes; None: all detections as they are."""
        detections = self._images.read_objects(image)
        if entries is None:
            return detections
        if not isinstance(entries, list) or len(entries) > MAX_OBJECTS:
            raise RequestError(f"objects are a list of at most {MAX_OBJECTS:,}")
        limits = (image["height_px"], image["width_px"]) * 2
        return [_complete_object(entry, detections, limits) for entry in entries]


def _complete_object(entry: Any, detections: list[dict], limits: tuple[int, ...]) -> dict:
    """An object of tables.DECISIONS from the number of a detection, or from its corners."""
    if isinstance(entry, int) and not isinstance(entry, bool) and 0 <= entry < len(detections):
        return detections[entry]
    is_box = isinstance(entry, list) and len(entry) == len(CORNERS)
    if not (is_box and all(isinstance(value, int | float) for value in entry)):
        raise RequestError("an object is the number of a detection, or y0, x0, y1, x1")
    if not all(0 <= value <= limit for value, limit in zip(entry, limits)):  # NaN fails, too
        raise RequestError("an object is outside the image")
    corners = dict(zip(CORNERS, map(float, entry), strict=True))
    sides = (corners["y1"] - corners["y0"], corners["x1"] - corners["x0"])
    if min(sides) < 0 or (min(sides) == 0 and max(sides) > 0):
        raise RequestError("a box has positive sides, and a point none")
    return {**corners, "diameter_px": None, "area_px": None}


def _parse_whole(values: Mapping, name: str) -> int:
    try:
        return int(values[name])
    except (KeyError, ValueError):
        raise RequestError(f"{name} is no whole number") from None


def _parse_name(values: Mapping) -> str:
    """The reviewer's name."""
    name = values.get("reviewer")
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_NAME or not name.isprintable():
        raise RequestError(f"a reviewer has a name of at most {MAX_NAME} printable characters")
    return name.strip()
