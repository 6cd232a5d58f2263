"""The synthetic archive: reads back with other people's readers, truth agrees with it, same arguments same bytes."""

import csv
import hashlib
import json
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
from ncempy.io import emd as ncem
from rsciio import hspy, mrc
from rsciio import tiff as rsciio_tiff

from emqa_dask.synthetic import coco, writers
from emqa_dask.synthetic.archive import synthesise
from emqa_dask.synthetic.faults import FAULTS


def rows_of(path: Path) -> list[dict]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    out = tmp_path_factory.mktemp("synthesise") / "my archive"
    calls = []
    counts = synthesise(out, "demo", 72, 3, shape=(96, 128), progress=lambda done, n: calls.append((done, n)))
    truth = out.with_name("my archive.truth")
    document = json.loads((truth / "annotations.json").read_text(encoding="utf-8"))
    return out, truth, counts, document, calls


def test_every_format_and_every_fault_is_there(demo):
    _, truth, counts, _, calls = demo
    assert set(counts["formats"]) == set(writers.FORMATS)
    rows = rows_of(truth / "faults.csv")
    assert {row["fault"] for row in rows} == {"", *FAULTS}
    assert len(rows) == counts["n_micrographs"] == 72
    assert sum(row["fault"] == "" for row in rows) >= 40
    assert calls[-1] == (72, 72)
    assert counts["truth"] == str(truth)
    assert all(float(row["severity"]) > 0 for row in rows if row["fault"])


def test_every_file_is_accounted_for_and_only_once(demo):
    out, truth, counts, document, _ = demo
    micrographs = [(row["file"], int(row["frame"])) for row in rows_of(truth / "faults.csv")]
    others = [row["file"] for row in rows_of(truth / "others.csv")]
    assert len(set(micrographs)) == len(micrographs)
    assert {file for file, _ in micrographs} | set(others) == set(digests(out))
    assert counts["n_files"] == len(digests(out))
    assert [(record["file_name"], record["frame"]) for record in document["images"]] == micrographs
    assert {row["kind"] for row in rows_of(truth / "others.csv")} == {"text", "spectrum"}


def test_coco_truth_is_consistent(demo):
    *_, document, _ = demo
    images = {record["id"]: record for record in document["images"]}
    assert len(images) == 72
    annotated = {annotation["image_id"] for annotation in document["annotations"]}
    assert annotated
    assert all(images[i]["is_annotated"] for i in annotated)
    assert len({annotation["id"] for annotation in document["annotations"]}) == len(document["annotations"])
    categories = {category["id"] for category in document["categories"]}
    for annotation in document["annotations"][::7]:
        shape = images[annotation["image_id"]]["height"], images[annotation["image_id"]]["width"]
        mask = coco.decode_run_lengths(annotation["segmentation"]["counts"], shape)
        rows, columns = np.nonzero(mask)
        assert annotation["area"] == mask.sum() == len(rows)
        x, y, width, height = annotation["bbox"]
        assert (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1) == (y, x, y + height, x + width)
        assert annotation["category_id"] in categories


def read_back(path: Path) -> tuple[np.ndarray, float | None]:
    """Pixels and pixel size (nm) as RosettaSciIO, ncempy or tifffile gives them; None where there is none."""
    to_nm = {"nm": 1.0, "µm": 1e3, "um": 1e3, "m": 1e9}
    if path.name.endswith(".ome.tif"):
        with tifffile.TiffFile(path) as file:
            metadata = tifffile.xml2dict(file.ome_metadata)["OME"]["Image"]["Pixels"]
            size = metadata.get("PhysicalSizeX")
            assert size is None or metadata["PhysicalSizeXUnit"] == "nm"
            return file.asarray(), size
    if path.suffix == ".tif":
        with tifffile.TiffFile(path) as file:
            imagej = file.imagej_metadata or {}
            if imagej.get("unit") == "nm":  # which RosettaSciIO does not read
                pixels, per_unit = file.pages[0].tags["XResolution"].value
                return file.asarray(), per_unit / pixels
    if path.suffix == ".emd":
        content = ncem.emdReader(path)
        assert content["pixelName"] == ["y", "x"]
        unit = content["pixelUnit"][-1]
        return content["data"], content["pixelSize"][-1] if unit == "[n_m]" else None
    reader = {".tif": rsciio_tiff, ".mrc": mrc, ".mrcs": mrc, ".hspy": hspy}[path.suffix]
    with warnings.catch_warnings():  # RosettaSciIO's MRC reader leaves its file to the garbage collector
        warnings.simplefilter("ignore", ResourceWarning)
        signal = reader.file_reader(str(path))[0]
    axis = signal["axes"][-1]
    return np.asarray(signal["data"]), axis["scale"] * to_nm[axis["units"]] if axis["units"] in to_nm else None


# RosettaSciIO's MRC reader calls an unset cell length 1 nm a pixel (scale 1), so absence cannot be told there.
SIZE_UNKNOWN = {".mrc", ".mrcs"}


def test_files_read_back_with_their_pixels_and_pixel_size(demo):
    out, _, _, document, _ = demo
    seen = set()
    for record in document["images"]:
        path = out / record["file_name"]
        if path.suffix in (".png", ".jpg"):
            assert record["nm_per_pixel_in_file"] is None
            continue
        pixels, size = read_back(path)
        assert pixels.shape[-2:] == (record["height"], record["width"])
        expected = record["nm_per_pixel_in_file"]
        if expected is not None:
            assert size == pytest.approx(expected, rel=1e-4)
            assert record["nm_per_pixel"] == expected
            seen.add(path.suffix)
        elif path.suffix not in SIZE_UNKNOWN:
            assert size is None
    assert seen == {".tif", ".mrc", ".mrcs", ".emd", ".hspy"}


def test_stacks_hold_a_frame_for_every_row(demo):
    out, truth, counts, *_ = demo
    frames: dict[str, int] = {}
    for row in rows_of(truth / "faults.csv"):
        frames[row["file"]] = frames.get(row["file"], 0) + 1
    stacks = {file: n for file, n in frames.items() if n > 1}
    assert len(stacks) == counts["formats"]["tiff_stack"] + counts["formats"]["mrc_stack"]
    for file, n in stacks.items():
        assert len(read_back(out / file)[0]) == n


def test_the_spectrum_is_a_spectrum(demo):
    out, truth, *_ = demo
    file = next(row["file"] for row in rows_of(truth / "others.csv") if row["kind"] == "spectrum")
    signal = hspy.file_reader(str(out / file))[0]
    assert signal["data"].ndim == 1
    assert signal["axes"][0]["units"] == "keV"
    assert signal["metadata"]["Signal"]["signal_type"] == "EDS_TEM"


def test_duplicates_are_the_same_bytes_and_near_duplicates_are_not(demo):
    out, truth, *_ = demo
    found = digests(out)
    rows = rows_of(truth / "faults.csv")
    for row in rows:
        twins = sum(digest == found[row["file"]] for digest in found.values())
        if row["fault"] == "duplicate":
            assert twins >= 2
        elif row["fault"] == "near_duplicate":
            assert twins == 1
    copied = {found[row["file"]] for row in rows if row["fault"] == "duplicate"}
    assert all(row["fault"] in ("", "duplicate") for row in rows if found[row["file"]] in copied)


def test_the_same_arguments_give_the_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        synthesise(tmp_path / name, "mixed", 20, seed, shape=(64, 80))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert digests(tmp_path / "a.truth") == digests(tmp_path / "b.truth")
    assert digests(tmp_path / "a").keys() != digests(tmp_path / "c").keys()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 17, 40, 41])
def test_n_counts_micrographs(tmp_path, n):
    counts = synthesise(tmp_path / "x", "nanoparticle-tem", n, 1, shape=(48, 64))
    assert counts["n_micrographs"] == n
    if n >= 40:
        assert set(counts["faults"]) == {"none", *FAULTS}


def test_without_faults_all_are_good_and_annotated(tmp_path):
    synthesise(tmp_path / "x", "cavity-tem", 8, 2, shape=(96, 96), faults=())
    document = json.loads((tmp_path / "x.truth" / "annotations.json").read_text())
    assert all(record["fault"] == "" and record["is_annotated"] for record in document["images"])
    assert {record["family"] for record in document["images"]} == {"cavity-tem"}


def test_refusals_name_the_remedy_and_write_nothing(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.doc").write_text("mine")
    with pytest.raises(FileExistsError, match="choose another name, or move it away"):
        synthesise(tmp_path / "full", "demo", 2)
    (tmp_path / "y.truth").mkdir()
    (tmp_path / "y.truth" / "x").write_text("")
    with pytest.raises(FileExistsError, match=r"y\.truth"):
        synthesise(tmp_path / "y", "demo", 2)
    for arguments, text in (
        ({"profile": "optical"}, "optical"),
        ({"n": 0}, "n is 0"),
        ({"faults": ["fire"]}, "fire"),
    ):
        with pytest.raises(ValueError, match=text):
            synthesise(tmp_path / "z", **arguments)
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize("format_", sorted(writers.FORMATS))
def test_a_written_file_gives_its_pixels_back(tmp_path, format_):
    suffix, dtypes, most, _ = writers.FORMATS[format_]
    rng = np.random.default_rng(0)
    for dtype in dtypes:
        shape = (min(most, 3), 23, 31)
        frames = (rng.uniform(0, 200, shape) if dtype == "float32" else rng.integers(0, 200, shape)).astype(dtype)
        path = tmp_path / f"übung {dtype}{suffix}"
        writers.write_frames(path, format_, frames, 0.25, meta={"voltage_kv": 200.0, "acquired": "2021-03-04T10:11:12"})
        if suffix in (".png", ".jpg"):
            import imageio.v3 as imageio

            pixels = imageio.imread(path)
            size = None
        else:
            pixels, size = read_back(path)
        if format_ == "jpeg":
            assert np.abs(pixels.astype(float) - frames[0]).mean() < 12
        else:
            assert pixels.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(pixels, frames if most > 1 else frames[0])
        if writers.FORMATS[format_][3]:
            assert size == pytest.approx(0.25, rel=1e-5)


def test_hdf5_files_carry_no_clock(tmp_path):
    frames = np.arange(600, dtype=np.uint16).reshape(1, 20, 30)
    for name in ("emd", "hspy", "ome"):
        for copy in ("a", "b"):
            writers.write_frames(tmp_path / f"{copy}.{name}", name, frames, 0.1)
        assert (tmp_path / f"a.{name}").read_bytes() == (tmp_path / f"b.{name}").read_bytes()
    with h5py.File(tmp_path / "a.emd") as file:
        assert file["data/image/data"].shape == (20, 30)


def test_frames_that_a_format_cannot_hold_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"x\.png.*uint8"):
        writers.write_frames(tmp_path / "x.png", "png", np.zeros((1, 4, 4), np.float32), None)
    with pytest.raises(ValueError, match="1 frame"):
        writers.write_frames(tmp_path / "x.tif", "fei", np.zeros((2, 4, 4), np.uint16), None)
