"""Labels with odd values at every place: one line that names the file, never an error of another kind."""

import copy
import json

import cv2
import numpy as np
import pandas as pd
import pytest

from emqa_dask.cli import main
from emqa_dask.coco import masks as coco_masks
from emqa_dask.pipeline.workspace import labels
from emqa_dask.review.labels import reading
from emqa_dask.train import class_labels, coco
from emqa_dask.tune import lattice

ODD = [
    None, True, -1, 0, 1.5, 10**400, 2**63, float("nan"), float("inf"), "", "x", "a" * 300, "\ud800", "a\0b",
    [], [1], [[1]], [None] * 4, ["1"] * 4, [float("nan")] * 6, [10**400] * 6, {}, {"a": 1}, {"size": [80, 80]},
    {"size": [80, 80], "counts": "~~~"}, {"size": [80, 80], "counts": [-5, 6405]}, {"size": 3, "counts": 3},
]  # fmt: skip
CONTENT = {
    "images": [
        {"id": 1, "file_name": "1.png", "height": 80, "width": 80, "frame": 0},
        {"id": 2, "file_name": "2.png", "height": 80, "width": 80},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 20, 20], "iscrowd": 0},
        {"id": 2, "image_id": 1, "category_id": 7, "bbox": [5, 5, 9, 9], "segmentation": [[5, 5, 14, 5, 14, 14]]},
        {"id": 3, "image_id": 2, "category_id": 7, "bbox": [0, 0, 9, 9],
         "segmentation": {"size": [80, 80], "counts": [0, 80, 6320]}},
    ],
    "categories": [{"id": 7, "name": "disc"}],
}  # fmt: skip


def places(value, path=()):
    """Every place in a JSON document, the document itself among them."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def changed(path, value):
    """CONTENT with `value` at the place `path`; without it for `places`, an unlikely value."""
    content = copy.deepcopy(CONTENT)
    if not path:
        return value
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return content


def removed(path):
    content = copy.deepcopy(CONTENT)
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    del inner[path[-1]]
    return content


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("odd")
    for k in (1, 2):
        cv2.imwrite(str(made / f"{k}.png"), np.zeros((80, 80), np.uint8))
    return made


def read_sets(file, folder):
    coco.read_coco_sets([(file, folder)])


def read_labels(file, folder):
    ledger = {"micrograph_id": ["a", "b"], "uri": ["1.png", "2.png"], "frame": 0, "height_px": 80, "width_px": 80}
    labels.match_labels(reading.read_labels(file), pd.DataFrame(ledger), file)


def refusal(read, *arguments) -> str:
    """What `read` says against its arguments; "" where it takes them. Errors of other kinds fail the test."""
    try:
        read(*arguments)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


@pytest.mark.parametrize("read", [read_sets, read_labels])
def test_odd_values_at_every_place_are_named_or_read(read, folder):
    file = folder / "labels.json"
    contents = [changed(path, value) for path in places(CONTENT) for value in ODD]
    contents += [removed(path) for path in places(CONTENT) if path]
    n_refused = 0
    for content in contents:
        file.write_text(json.dumps(content))
        said = refusal(read, file, folder)
        if said:
            n_refused += 1
            assert str(file) in said, content
            assert len(said) < 2000
            assert "\n" not in said
    assert n_refused > len(contents) / 2


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"1" * 5000, b'"text"', b"null"])
@pytest.mark.parametrize("read", [read_sets, read_labels])
def test_damaged_json_is_named(read, content, folder):
    (folder / "labels.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels\.json: not "):
        read(folder / "labels.json", folder)


def test_a_folder_in_the_place_of_labels_is_named(folder):
    with pytest.raises(OSError, match=rf"{folder} cannot be read.*give a COCO JSON file"):
        read_sets(folder, folder)
    with pytest.raises(ValueError, match=rf"{folder} has no labels: give a folder with JSON of LabelMe"):
        read_labels(folder, folder)


def test_run_lengths_are_counted_as_pycocotools_writes_them():
    from pycocotools import mask as coco_mask

    rng = np.random.default_rng(0)
    for k in range(300):
        shape = rng.integers(1, 60, 2)
        mask = np.asfortranarray(rng.random(shape) < rng.random()).astype(np.uint8)
        text = coco_mask.encode(mask)["counts"].decode()
        assert coco_masks.count_run_length_pixels(text) == mask.size, k
        assert coco_masks.count_run_length_pixels(text + "Q5") != mask.size


def test_a_mask_too_large_is_refused_before_decoding(folder):
    from pycocotools import mask as coco_mask

    content = copy.deepcopy(CONTENT)
    large = coco_mask.encode(np.asfortranarray(np.eye(200, dtype=np.uint8)))["counts"].decode()
    content["annotations"][2]["segmentation"] = {"size": [80, 80], "counts": large}
    (folder / "labels.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"annotation 3: its compressed run lengths do not make 6400 px"):
        read_sets(folder / "labels.json", folder)


@pytest.mark.parametrize(
    ("csv", "said"),
    [
        (b"uri,label\n\xff.tif,a\n", "no CSV in UTF-8"),
        (b"", "no CSV"),
        (b"uri,label\n/etc/hosts,a\n", "line 2: the uri '/etc/hosts' leads out"),
        (b"uri,label\na/../../b,a\n", r"line 2: the uri 'a/\.\./\.\./b' leads out"),
        (b"uri,label\n.,a\n", "line 2: there is no file '.'"),
        (b"uri, uri,label\n1.png,1.png,a\n", "the column uri occurs twice"),
        (b"label\na\n", "lacks the column uri"),
        (b'uri,label\n"1.png,a\n', "no CSV"),
        (b"uri,label\n1.png,a,b,c\n", "no CSV|there is no file|lacks"),
    ],
)
def test_odd_class_labels_are_named(csv, said, folder):
    (folder / "labels.csv").write_bytes(csv)
    with pytest.raises(ValueError, match=rf"labels\.csv.*({said})"):
        class_labels.read_class_labels(folder / "labels.csv", lambda uri: (folder / uri).is_file())


def test_a_folder_in_the_place_of_class_labels_is_named(folder):
    with pytest.raises(OSError, match=r"cannot be read.*give a CSV"):
        class_labels.read_class_labels(folder, lambda uri: True)


LATTICES = {
    "cell": {"a_nm": 0.39, "b_nm": 0.39, "gamma_deg": 90, "columns": [[0, 0], [0.5, 0.5]]},
    "spacings": {"spacings_nm": [0.2, 0.3], "angle_deg": 90, "columns_per_cell": 1},
    "density": {"count_per_um2": 400},
}
TOML = ["nan", "inf", "-1", "0", "true", '"x"', "[]", "[1]", '["a"]', "[[1]]", "{}", "1e308", "99999999999999999999"]


def test_odd_values_of_lattices_are_named_or_read(tmp_path):
    crystal = {"a_nm": 0.4, "b_nm": 0.4, "c_nm": 0.4, "alpha_deg": 90, "beta_deg": 90, "gamma_deg": 90}
    crystal |= {"atoms": [[0, 0, 0]], "zone_axis": [0, 0, 1]}
    file = tmp_path / "lattice.toml"
    for name, known in {**LATTICES, "crystal": crystal}.items():
        for key in known:
            for value in TOML:
                lines = [f"{k} = {value if k == key else json.dumps(v)}" for k, v in known.items()]
                file.write_text(("[crystal]\n" if name == "crystal" else "") + "\n".join(lines))
                said = refusal(lattice.read_lattice, file)
                assert not said or str(file) in said, (name, key, value)


@pytest.mark.parametrize("how", ["--architecture", "--config"])
def test_what_an_import_reads_is_named(how, tmp_path, capsys):
    checkpoint = tmp_path / "a.pth"
    file = tmp_path / "described"
    checkpoint.write_bytes(b"no checkpoint")
    command = ["import", "detector", str(checkpoint), how, str(file), "--classes", "a", "--out", str(tmp_path / "m")]
    texts = [b"", b"\xff", b"a: [", b"a = 1", b"[architecture]\nbackbone = 3\nanchor_sizes = 'x'", b"architecture = 3"]
    texts += [
        b"MODEL: 3",
        b"_BASE_: nothing.yaml",
        b"[architecture]\nbackbone = 'resnet18'\nanchor_sizes = [1, 2, 3, 4, 5]",
    ]
    for text in texts:
        file.write_bytes(text)
        assert main(command) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert said.startswith("emqa: ")
        assert "described" in said or "a.pth" in said or "needs detectron2" in said
    for path in (file, checkpoint):
        path.unlink()
        assert main(command) == 1
        assert f"{path}: there is no such file" in capsys.readouterr().err
        path.write_bytes(b"")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "described"]
