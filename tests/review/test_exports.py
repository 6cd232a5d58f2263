"""Exports: what was written comes back with identities, boxes, masks, scores and pixel sizes."""

import csv
import io
import json
import zipfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from emqa_dask.mask_runs import encode_objects, find_runs
from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.review.exports.coco import write_coco
from emqa_dask.review.exports.cvat import write_cvat
from emqa_dask.review.exports.fiji import write_fiji
from emqa_dask.review.exports.formats import FORMATS
from emqa_dask.review.exports.geojson import write_geojson
from emqa_dask.review.exports.napari import write_napari
from emqa_dask.review.exports.outlines import trace_objects
from emqa_dask.review.exports.yolo import write_yolo
from tests.review.exported import NAMES, SHAPE, make_batch

LEDGER = pd.DataFrame(
    {
        "micrograph_id": [f"{k:032x}" for k in range(3)],
        "uri": NAMES,
        "frame": 0,
        "content_sha256": [f"{k + 1:064x}" for k in range(3)],
        "height_px": SHAPE[0],
        "width_px": SHAPE[1],
    }
)


def export(folder, name, batches, has_polygons=False) -> str:
    target = folder / f"export{FORMATS[name].suffix}"
    if FORMATS[name].suffix:
        with open(target, "wb") as stream:
            FORMATS[name].write_batches(batches, stream, has_polygons)
    else:
        target.mkdir()
        FORMATS[name].write_batches(batches, target, has_polygons)
    return str(target)


def draw(mask):
    y0, x0, pixels = mask
    image = np.zeros(SHAPE, bool)
    image[y0 : y0 + pixels.shape[0], x0 : x0 + pixels.shape[1]] = pixels
    return image


def compute_iou(a, b):
    return (a & b).sum() / (a | b).sum()


def list_boxes(batch, image):
    rows = batch.objects.to_pandas()
    return rows.loc[rows["image"] == image, ["y0", "x0", "y1", "x1"]].to_numpy()


# IoU of masks, and whether boxes are those of the detections: texts of YOLO have the outline alone
ROUND_TRIPS = {
    ("coco", False): (1.0, True),
    ("coco", True): (0.97, True),
    ("cvat", False): (1.0, True),
    ("cvat", True): (0.97, True),
    ("csv", False): (1.0, True),
    ("yolo", False): (0.97, False),
    ("fiji", False): (0.97, True),
}


@pytest.mark.parametrize("has_masks", [True, False])
@pytest.mark.parametrize(("name", "has_polygons"), ROUND_TRIPS)
def test_exports_come_back_as_labels(tmp_path, name, has_polygons, has_masks):
    if name == "fiji":
        pytest.importorskip("roifile")
    iou_limit, has_boxes = ROUND_TRIPS[name, has_polygons]
    batch, masks = make_batch(has_masks=has_masks)
    labels = read_matched_labels([export(tmp_path, name, [batch], has_polygons)], LEDGER)
    assert set(labels) >= set(LEDGER["micrograph_id"][:2])
    rows = batch.objects.to_pandas()
    for image in range(2):
        label = labels[f"{image:032x}"]
        assert [str(key) for key in rows.loc[rows["image"] == image, "object"]] == list(label.ids)
        expected = rows.loc[rows["image"] == image, "label"].fillna("object")
        assert list(label.labels) == list(expected) or (name == "csv" and not has_masks)
        if has_boxes or not has_masks:
            np.testing.assert_allclose(label.boxes, list_boxes(batch, image), atol=1e-3, rtol=0)
        if has_masks:
            own = [masks[k] for k in np.flatnonzero(rows["image"] == image)]
            ious = [compute_iou(draw(mask), true) for mask, true in zip(label.masks, own, strict=True)]
            assert min(ious) >= iou_limit
    if name in ("coco", "cvat", "yolo"):
        assert len(labels[f"{2:032x}"].boxes) == 0


def test_parts_of_an_export_are_those_of_one(tmp_path):
    batch, _ = make_batch()
    parts = []
    for k in range(3):
        is_own = batch.objects["image"].to_numpy() == k
        own = batch.objects.filter(is_own)
        column = own.schema.get_field_index("image")
        objects = own.set_column(column, "image", [np.zeros(len(own), np.int32)])
        parts.append(batch._replace(images=batch.images.slice(k, 1), objects=objects))
    for name in ("coco", "cvat", "csv", "geojson"):
        (tmp_path / name).mkdir()
        (tmp_path / f"{name}-parts").mkdir()
        whole = Path(export(tmp_path / name, name, [batch])).read_bytes()
        assert Path(export(tmp_path / f"{name}-parts", name, parts)).read_bytes() == whole


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_a_valid_export(tmp_path, name):
    path = export(tmp_path, name, [])
    if path.endswith("json"):
        json.loads(Path(path).read_bytes())
    if path.endswith("xml"):
        ElementTree.parse(path)


def test_outlines_have_the_pixels_of_masks():
    cv2 = pytest.importorskip("cv2")
    batch, masks = make_batch()
    rings = trace_objects(batch.objects, np.full(len(masks), SHAPE[0]))
    np.testing.assert_array_equal(
        np.add.reduceat(rings.areas_px, rings.ring_offsets[:-1]), [mask.sum() for mask in masks]
    )
    for k, mask in enumerate(masks):
        n_outer, _ = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
        n_rings = rings.ring_offsets[k + 1] - rings.ring_offsets[k]
        holes = (rings.areas_px[rings.ring_offsets[k] : rings.ring_offsets[k + 1]] < 0).sum()
        assert n_rings - holes == n_outer - 1


def test_holes_and_parts_have_rings_of_their_own(tmp_path):
    mask = np.zeros(SHAPE, bool)
    mask[10:20, 10:20] = True
    mask[13:15, 13:15] = False
    mask[20:22, 20:22] = True  # touches at a corner
    runs = find_runs(mask.T)
    text, _ = encode_objects(runs, np.array([0, len(runs)]), *(SHAPE[0], SHAPE[0] * SHAPE[1]))
    batch, _ = make_batch(2, 1)
    column = batch.objects.schema.get_field_index("mask_rle")
    batch = batch._replace(objects=batch.objects.set_column(column, "mask_rle", [[text.tobytes().decode()]]))
    rings = trace_objects(batch.objects, np.array([SHAPE[0]]))
    assert sorted(rings.areas_px) == [-4, 4, 100]
    assert rings.select_largest().areas_px.tolist() == [100]
    (feature,) = json.loads(Path(export(tmp_path, "geojson", [batch])).read_bytes())["features"]
    assert feature["geometry"]["type"] == "MultiPolygon"
    corners = [np.min(part[0], axis=0).tolist() for part in feature["geometry"]["coordinates"]]
    assert corners == [[10, 10], [20, 20]]


def test_pycocotools_evaluates_the_export(tmp_path, capsys):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    batch, masks = make_batch()
    truth = COCO(export(tmp_path, "coco", [batch]))
    results = truth.loadRes(list(truth.anns.values()))
    for kind in ("bbox", "segm"):
        evaluation = COCOeval(truth, results, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(1)
    for key, annotation in truth.anns.items():
        np.testing.assert_array_equal(truth.annToMask(annotation), masks[key - 1])
    assert [truth.anns[k]["score"] for k in range(1, 11)] == batch.objects["score"].to_pylist()
    assert truth.imgs[1]["nm_per_pixel"] == 0.31
    assert truth.imgs[2]["nm_per_pixel"] is None
    assert [image["file_name"] for image in truth.imgs.values()] == list(NAMES)


def test_xml_has_the_structure_of_cvat(tmp_path):
    batch, _ = make_batch()
    root = ElementTree.parse(export(tmp_path, "cvat", [batch])).getroot()
    assert [element.tag for element in root[:2]] == ["version", "meta"]
    assert root.findtext("meta/task/size") == "3"
    labels = [element.findtext("name") for element in root.findall("meta/task/labels/label")]
    assert labels == ["micrograph", "cavity", 'a "loop" & <so>']
    images = root.findall("image")
    assert [image.get("name") for image in images] == list(NAMES)
    for image in images:
        assert {"id", "name", "width", "height"} == set(image.attrib)
        assert [element.tag for element in image] in (["tag"], ["tag", *["mask"] * 5])
        for mask in image.findall("mask"):
            assert {"label", "source", "occluded", "rle", "left", "top", "width", "height", "z_order"} == set(
                mask.attrib
            )
            lengths = [int(text) for text in mask.get("rle").split(",")]
            assert sum(lengths) == int(mask.get("width")) * int(mask.get("height"))


def test_tables_have_a_row_per_object(tmp_path):
    batch, _ = make_batch()
    with open(export(tmp_path, "csv", [batch]), newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["uri"] for row in rows] == [NAMES[0]] * 5 + [NAMES[1]] * 5
    assert [float(row["score"]) for row in rows] == batch.objects["score"].to_pylist()
    assert [row["nm_per_pixel"] for row in rows] == ["0.31"] * 5 + [""] * 5
    assert [row["diameter_nm"] for row in rows[5:]] == [""] * 5


def test_napari_has_layers_with_the_properties_of_points(tmp_path):
    batch, masks = make_batch()
    folder = tmp_path / "napari"
    folder.mkdir()
    write_napari([batch, batch._replace(images=batch.images.slice(0, 2))], folder)
    (stack,) = folder.iterdir()
    points = pd.read_csv(stack / "points.csv")
    assert list(points["index"]) == list(range(20))
    assert points["axis-0"].tolist() == ([0] * 5 + [2] * 5) * 2
    assert points["axis-1"].tolist()[:10] == batch.objects["y_px"].to_pylist()
    assert points["score"].tolist()[:10] == batch.objects["score"].to_pylist()
    shapes = pd.read_csv(stack / "shapes.csv")
    assert shapes["index"].max() == 19
    first = shapes[shapes["index"] == 0]
    rows, columns = np.nonzero(masks[0])
    assert first["axis-1"].min() == rows.min() - 0.5
    assert first["axis-2"].max() == columns.max() + 0.5


def test_rois_of_fiji_are_valid(tmp_path):
    roifile = pytest.importorskip("roifile")
    batch, _ = make_batch()
    folder = tmp_path / "fiji"
    folder.mkdir()
    write_fiji([batch], folder)
    files = sorted((folder / "rois").rglob("*.zip"))
    assert [file.name for file in files] == ["a.zip", 'é "b" & <c>.zip']
    rois = roifile.roiread(files[0])
    assert len(rois) == 5
    assert f"image: {NAMES[0]}" in rois[0].props
    assert rois[0].roitype == roifile.ROI_TYPE.POLYGON
    results = pd.read_csv(folder / "Results.csv")
    assert results["Area"].tolist() == batch.objects["area_px"].to_pylist()
    assert results["Circ."].tolist() == pytest.approx(batch.objects["circularity"].to_numpy() ** -2.0)


def test_names_that_are_taken_get_the_identity(tmp_path):
    batch, _ = make_batch()
    uris = ["a.tif", "a.mrc", "b.tif"]
    column = batch.images.schema.get_field_index("uri")
    batch = batch._replace(images=batch.images.set_column(column, "uri", [uris]))
    write_yolo([batch], tmp_path)
    index = pd.read_csv(tmp_path / "images.csv")
    assert index["file"].tolist() == ["labels/a.txt", "labels/a-00000000.txt", "labels/b.txt"]
    assert index["name"].tolist() == uris


def test_frames_are_in_the_names(tmp_path):
    batch, _ = make_batch(frame=3)
    stream = io.BytesIO()
    write_cvat([batch], stream)
    path = tmp_path / "a.xml"
    path.write_bytes(stream.getvalue())
    labels = read_matched_labels([str(path)], LEDGER.assign(frame=3))
    assert len(labels) == 3


def test_geojson_is_one_collection(tmp_path):
    batch, masks = make_batch()
    stream = io.BytesIO()
    write_geojson([batch], stream)
    features = json.loads(stream.getvalue())["features"]
    assert len(features) == len(masks)
    ring = np.array(features[0]["geometry"]["coordinates"][0])
    assert ring[0].tolist() == ring[-1].tolist()
    assert features[0]["properties"]["uri"] == NAMES[0]
    assert features[0]["properties"]["measurements"]["nm_per_pixel"] == 0.31


def test_polygons_of_coco_are_lists_of_numbers():
    batch, _ = make_batch()
    stream = io.BytesIO()
    write_coco([batch], stream, has_polygons=True)
    annotations = json.loads(stream.getvalue())["annotations"]
    assert all(len(ring) >= 8 and len(ring) % 2 == 0 for row in annotations for ring in row["segmentation"])


def test_zip_members_of_fiji_are_numbered(tmp_path):
    batch, _ = make_batch(has_masks=False)
    write_fiji([batch], tmp_path)
    with zipfile.ZipFile(tmp_path / "rois/day 1/a.zip") as archive:
        assert archive.namelist() == [f"{k:06d}.roi" for k in range(5)]
