"""Files of labels for emqa calibrate: what is read from COCO, points and counts, and which errors are named."""

import json

import numpy as np
import pandas as pd
import pytest

from emqa_dask.pipeline.workspace.labelled_micrographs import select_kind
from emqa_dask.pipeline.workspace.labels import match_labels, merge_labels
from emqa_dask.review.labels.reading import read_labels

LEDGER = pd.DataFrame(
    {"micrograph_id": ["1", "2"], "uri": ["day/a.tif", "day/b.tif"], "frame": 0, "height_px": 40, "width_px": 50}
)


def write(path, text) -> str:
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return str(path)


def read_files(*paths):
    return merge_labels({path: match_labels(read_labels(path), LEDGER, path) for path in paths})


def coco(*annotations, name="a.tif") -> dict:
    rows = [{"id": k, "image_id": 1, **annotation} for k, annotation in enumerate(annotations)]
    return {"images": [{"id": 1, "file_name": name, "height": 40, "width": 50}], "annotations": rows}


@pytest.mark.parametrize("start", ["", "\ufeff"])
def test_counts_are_read_from_a_table(tmp_path, start):
    labels = read_files(write(tmp_path / "n.csv", f"{start}uri, n_objects\nday/a.tif,12\nb.tif, 0\n"))
    assert {key: label.n_objects for key, label in labels.items()} == {"1": 12, "2": 0}
    assert labels["1"].kinds == ("counts",)


def test_points_are_read_from_a_table(tmp_path):
    labels = read_files(write(tmp_path / "p.csv", "uri,y,x\na.tif,1.5,2\na.tif,39,50\nb.tif,,\n"))
    assert labels["1"].points.tolist() == [[1.5, 2], [39, 50]]
    assert labels["2"].points.shape == (0, 2)


def test_masks_alone_have_the_box_of_their_pixels(tmp_path):
    polygon = [10, 5, 20, 5, 20, 12, 10, 12]  # x, y of the corners
    labels = read_files(write(tmp_path / "m.json", coco({"segmentation": [polygon]})))
    assert labels["1"].boxes.tolist() == [[5, 10, 12, 20]]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("uri,n_objects\na.tif,-1\n", "line 2: n_objects is '-1': a whole number"),
        ("uri,n_objects\na.tif,1.5\nb.tif,many\n", "line 3: n_objects is 'many'"),
        ("uri,n_objects\na.tif,\n", "line 2: n_objects is empty"),
        ("uri,n_objects\n,3\n", "line 2: uri is empty"),
        ("uri,n_objects\na.tif,3\na.tif,4\n", "line 3: 'a.tif' is counted twice"),
        ("uri,n_objects\n", "it has no images"),
        ("uri,count\na.tif,3\n", "header has to be uri,n_objects or uri,y,x.*the columns uri, count"),
        ("uri,n_objects,y,x\na.tif,3,1,1\n", "header has to be"),
        ("uri,uri,y,x\na.tif,3,1,1\n", "the column uri occurs twice"),
        ("uri,y,x\na.tif,1,\n", "line 2: x is empty"),
        ("uri,y,x\na.tif,1,inf\n", "line 2: x is 'inf': a number of pixels"),
        ("uri,y,x\na.tif,,\na.tif,1,2\n", "line 2: 'a.tif' has points and a row without one"),
        ("uri,y,x\na.tif,45,2\n", "'a.tif' is 40 x 50 px and has a point at y 45, x 2"),
        ("uri,n_objects,frame\na.tif,4,1\n", "'a.tif' has no frame 1"),
        ("uri,n_objects\nx.tif,4\nz.tif,5\n", "labels of another archive: 'x.tif' is not in the workspace"),
        ("uri,n_objects\na.tif,4\nz.tif,5\n", "1 labelled images: 'z.tif' is not in the workspace"),
    ],
)
def test_faults_of_tables_are_named(tmp_path, text, named):
    path = write(tmp_path / "t.csv", text)
    with pytest.raises(ValueError, match=named) as error:
        read_files(path)
    assert path in str(error.value)


def test_an_empty_or_absent_table_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"t\.csv: no CSV in UTF-8"):
        read_labels(write(tmp_path / "t.csv", ""))
    (tmp_path / "u.csv").write_bytes(b"uri,n_objects\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match=r"u\.csv: no CSV in UTF-8"):
        read_labels(tmp_path / "u.csv")
    with pytest.raises(FileNotFoundError, match=r"none\.csv cannot be read"):
        read_labels(tmp_path / "none.csv")


def test_counts_that_contradict_boxes_are_named(tmp_path):
    boxes = write(tmp_path / "b.json", coco({"bbox": [1, 1, 5, 5]}, {"bbox": [9, 9, 5, 5]}))
    counts = write(tmp_path / "n.csv", "uri,n_objects\na.tif,3\n")
    with pytest.raises(ValueError, match=r"'a\.tif' has 2 boxes but 3 objects by its count"):
        read_files(boxes, counts)
    points = write(tmp_path / "p.csv", "uri,y,x\na.tif,3,3\n")
    with pytest.raises(ValueError, match=r"'a\.tif' has 2 boxes but 1 points"):
        read_files(points, boxes)
    again = write(tmp_path / "again.json", coco({"bbox": [1, 1, 5, 5]}))
    with pytest.raises(ValueError, match=r"'a\.tif' has boxes in .* and in another file"):
        read_files(boxes, again)


def test_counts_may_include_the_objects_of_a_crowd(tmp_path):
    crowd = {"bbox": [20, 20, 9, 9], "iscrowd": 1}
    boxes = write(tmp_path / "b.json", coco({"bbox": [1, 1, 5, 5]}, crowd))
    labels = read_files(boxes, write(tmp_path / "n.csv", "uri,n_objects\na.tif,7\n"))
    assert labels["1"].kinds == ("boxes", "counts")
    with pytest.raises(ValueError, match="1 boxes but 0 objects"):
        read_files(boxes, write(tmp_path / "m.csv", "uri,n_objects\na.tif,0\n"))


def test_the_most_informative_kind_of_eight_labels_counts(tmp_path):
    box = read_labels(write(tmp_path / "b.json", coco({"bbox": [1, 1, 5, 5]})))[0]
    count = read_labels(write(tmp_path / "n.csv", "uri,n_objects\na.tif,1\n"))[0]
    assert select_kind([box] * 8 + [count] * 40) == "boxes"
    assert select_kind([box] * 7 + [count] * 40) == "counts"
    assert select_kind([box] * 2 + [count]) == "boxes"
    assert np.array_equal(box.merge(count).boxes, box.boxes)
