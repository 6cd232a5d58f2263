"""Labels of CVAT, VIA, LabelMe, YOLO, Fiji and CSV, written by hand: one object each, and the faults they name."""

import base64
import io
import json
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from emqa_dask.pipeline.workspace.labels import read_matched_labels
from emqa_dask.review.labels.reading import read_labels

SHAPE = (40, 50)
BOX = [5, 10, 12, 20]  # y0, x0, y1, x1
RING = [(10, 5), (20, 5), (20, 12), (10, 12)]  # the same as x, y
LEDGER = pd.DataFrame(
    {
        "micrograph_id": ["1", "2", "3"],
        "uri": ["day/a.tif", "day/b.tif", "night/b.mrc"],
        "frame": 0,
        "content_sha256": ["1" * 64, "2" * 64, "3" * 64],
        "height_px": 40,
        "width_px": 50,
    }
)


def cvat(shapes, name="day/a.tif") -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version>'
        f'<image id="0" name="{name}" width="50" height="40">{shapes}</image></annotations>'
    )


def via(shape, name="a.tif") -> dict:
    region = {"shape_attributes": shape, "region_attributes": {"type": "loop"}}
    return {f"{name}1": {"filename": name, "size": 1, "regions": [region], "file_attributes": {}}}


def labelme(*shapes) -> dict:
    return {"version": "5", "shapes": list(shapes), "imagePath": "..\\a.tif", "imageHeight": 40, "imageWidth": 50}


def draw_png() -> str:
    buffer = io.BytesIO()
    Image.fromarray(np.full((7, 10), 255, np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def write(path, content) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return str(path)


CVAT_POINTS = ";".join(f"{x},{y}" for x, y in RING)
FILES = {
    "cvat-box": ("a.xml", cvat('<box label="loop" xtl="10" ytl="5" xbr="20" ybr="12"/>')),
    "cvat-polygon": ("a.xml", cvat(f'<polygon label="loop" points="{CVAT_POINTS}"/>')),
    "cvat-mask": ("a.xml", cvat('<mask label="loop" rle="0, 70" left="10" top="5" width="10" height="7"/>')),
    "via-project": ("a.json", {"_via_img_metadata": via({"name": "rect", "x": 10, "y": 5, "width": 10, "height": 7})}),
    "via-polygon": (
        "a.json",
        via({"name": "polygon", "all_points_x": [x for x, _ in RING], "all_points_y": [y for _, y in RING]}),
    ),
    "labelme-polygon": ("a.json", labelme({"label": "loop", "points": RING, "shape_type": "polygon"})),
    "labelme-rectangle": (
        "a.json",
        labelme({"label": "loop", "points": [[20, 12], [10, 5]], "shape_type": "rectangle"}),
    ),
    "labelme-mask": (
        "folder/a.json",
        labelme({"label": "loop", "points": [[10, 5], [20, 12]], "shape_type": "mask", "mask": draw_png()}),
    ),
    "yolo-box": ("labels/a.txt", "loop 0.3 0.2125 0.2 0.175\n"),
    "yolo-polygon": ("labels/a.txt", "loop " + " ".join(f"{x / 50} {y / 40}" for x, y in RING) + "\n"),
    "csv-boxes": ("a.csv", "content_sha256,y0,x0,y1,x1,label\n" + "1" * 64 + ",5,10,12,20,loop\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_one_object_is_read_from_every_format(tmp_path, name):
    file, content = FILES[name]
    path = write(tmp_path / file, content)
    matched = read_matched_labels([str(tmp_path / "labels") if "yolo" in name else path], LEDGER)
    assert list(matched) == ["1"]
    label = matched["1"]
    assert label.boxes.tolist() == [pytest.approx(BOX, abs=1e-9)]
    assert label.labels == ("loop",)
    is_outlined = name.rpartition("-")[2] in ("polygon", "mask")
    assert label.areas_px[0] == pytest.approx(70 if is_outlined else np.pi / 4 * 70)
    assert (label.masks[0] is not None) == is_outlined
    if not is_outlined:
        assert label.diameters_px[0] == pytest.approx(np.sqrt(70))


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("a.json", via({"name": "circle", "cx": 20, "cy": 15, "r": 6})),
        ("a.json", labelme({"label": "loop", "points": [[20, 15], [20, 21]], "shape_type": "circle"})),
        ("a.xml", cvat('<ellipse label="loop" cx="20" cy="15" rx="6" ry="6"/>')),
    ],
)
def test_circles_have_their_own_diameter(tmp_path, file, content):
    (label,) = read_matched_labels([write(tmp_path / file, content)], LEDGER).values()
    assert label.diameters_px.tolist() == [12]
    assert label.boxes.tolist() == [pytest.approx([9, 14, 21, 26])]


def test_via_tables_have_regions_by_line(tmp_path):
    rect = json.dumps({"name": "rect", "x": 10, "y": 5, "width": 10, "height": 7}).replace('"', '""')
    header = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    text = f'{header}a.tif,1,"{{}}",1,0,"{rect}","{{""type"":""loop""}}"\nday/b.tif,1,"{{}}",0,0,"{{}}","{{}}"\n'
    matched = read_matched_labels([write(tmp_path / "v.csv", text)], LEDGER)
    assert matched["1"].boxes.tolist() == [BOX]
    assert matched["2"].boxes.shape == (0, 4)


def test_points_of_all_formats_are_points(tmp_path):
    shape = '<points label="loop" points="10.5,5;20,12"/>'
    (label,) = read_matched_labels([write(tmp_path / "a.xml", cvat(shape))], LEDGER).values()
    assert label.points.tolist() == [[5, 10.5], [12, 20]]
    assert label.boxes is None


def test_polygons_of_a_group_are_one_object(tmp_path):
    parts = [[(10, 5), (14, 5), (14, 9), (10, 9)], [(20, 5), (24, 5), (24, 9), (20, 9)]]
    rows = [{"label": "loop", "points": part, "group_id": 3, "shape_type": "polygon"} for part in parts]
    (label,) = read_matched_labels([write(tmp_path / "a.json", labelme(*rows))], LEDGER).values()
    assert label.areas_px.tolist() == [32]


def test_classes_of_yolo_have_names(tmp_path):
    write(tmp_path / "data.yaml", "path: .\nnames:\n  0: cavity\n  1: loop\n")
    write(tmp_path / "labels" / "day" / "a.txt", "1 0.3 0.2 0.2 0.1 0.87\n")
    (label,) = read_matched_labels([str(tmp_path)], LEDGER).values()
    assert label.labels == ("loop",)


def test_content_and_base_name_tell_the_micrograph(tmp_path):
    text = "uri,content_sha256,n_objects\nelsewhere/x.png," + "3" * 64 + ",4\n/data/png/a.png,,2\n"
    matched = read_matched_labels([write(tmp_path / "n.csv", text)], LEDGER)
    assert {key: label.n_objects for key, label in matched.items()} == {"3": 4, "1": 2}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("a.csv", "uri,n_objects\nb.png,3\n", "'b.png' is one of 2 micrographs"),
        ("a.csv", "uri,content_sha256,n_objects\nday/a.tif," + "9" * 64 + ",3\n", "'day/a.tif' is not in"),
        ("a.xml", cvat('<box label="l" xtl="10" ytl="5" xbr="10" ybr="12"/>'), "box 1 of image 'day/a.tif' has a box"),
        ("a.xml", cvat('<box label="l" xtl="10" ytl="5" xbr="90" ybr="12"/>'), "box 1 .* outside its image of 40 x 50"),
        ("a.xml", cvat('<box label="l" xtl="1" ytl="5" xbr="9" ybr="12"/>' * 2), "box 2 .* repeats box 1 of"),
        ("a.xml", cvat('<polyline label="l" points="1,1;2,2"/>'), "polyline 1 of image 'day/a.tif' is a polyline"),
        ("a.xml", cvat('<mask label="l" rle="3" left="1" top="1" width="2" height="2"/>'), "run lengths of 3 px"),
        ("a.xml", cvat("").replace("50", "60"), "'day/a.tif' is 40 x 50 px, labelled as 40 x 60"),
        ("a.xml", cvat('<ellipse label="l" cx="9" cy="9" rx="1e5" ry="1e5"/>'), r"covers 20000\d x 20000\d px"),
        ("a.xml", cvat('<ellipse label="l" cx="9" cy="9" rx="1e9" ry="1"/>'), "has rx '1e9': a number of pixels"),
        ("a.xml", "<svg/>", "not a file of CVAT: its first element is svg"),
        ("a.json", via({"name": "circle", "cx": 45, "cy": 15, "r": 9}), "'a.tif' is 40 x 50 px, and its object at"),
        ("a.json", via({"name": "rect", "x": "?"}), "region 0 of image 'a.tif' has x '\\?': a number of pixels"),
        ("a.json", labelme({"label": "l", "points": [[1, 1], [2, 2]], "shape_type": "line"}), "shape 0 .* is a 'line'"),
        ("l/a.txt", "0 0.5 0.5\n", "line 1 of a.txt has 2 numbers after the class"),
        ("l/c.txt", "0 0.5 0.5 0.1 0.1\n", "c.txt is of no single image of the workspace"),
        ("a.csv", "uri,y0,x0,y1,x1\na.tif,1,2,3,\n", "line 2: x1 is empty"),
    ],
)  # fmt: skip
def test_faults_name_file_and_object(tmp_path, file, content, message):
    path = write(tmp_path / file, content)
    path = str(tmp_path / "l") if file.startswith("l/") else path
    with pytest.raises(ValueError, match=message) as error:
        read_matched_labels([path], LEDGER)
    assert str(error.value).startswith(path)


def test_rois_of_fiji_are_read(tmp_path):
    roifile = pytest.importorskip("roifile")
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, left=10, top=5, right=20, bottom=12, name="1")
    ring = roifile.ImagejRoi.frompoints(np.array(RING), name="2")
    (tmp_path / "rois").mkdir()
    with zipfile.ZipFile(tmp_path / "rois" / "a_RoiSet.zip", "w") as archive:
        for roi in (oval, ring):
            archive.writestr(f"{roi.name}.roi", roi.tobytes())
    for path in (tmp_path / "rois", tmp_path / "rois" / "a_RoiSet.zip"):
        (label,) = read_matched_labels([str(path)], LEDGER).values()
        assert label.boxes.tolist() == [BOX, BOX]
        assert label.areas_px.tolist() == [pytest.approx(np.pi / 4 * 70), 70]
        assert label.ids == ("1", "2")


@pytest.mark.parametrize(
    "data", [b"Iout" + b"\0" * 20, b"PK\x03\x04damaged", b"<annotations", b"\xff\xfe", b"[]", b"null"]
)
@pytest.mark.parametrize("suffix", ["", ".csv", ".json"])
def test_damaged_files_of_labels_are_named(tmp_path, data, suffix):
    path = tmp_path / f"labels{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match="labels"):
        read_labels(path)
