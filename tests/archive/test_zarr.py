"""Zarr and OME-Zarr in all layouts: the pixels that zarr-python reads, and the pixel size by hand."""

import json
import math
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from bad_files import image
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.archive.entries import Entry
from emqa_dask.archive.formats import zarr_arrays
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

NM_AXES = {"y": "nanometer", "x": "nanometer"}


def write_group(path: Path, attributes: dict, arrays: dict[str, np.ndarray] | None = None, version: int = 2, **options):
    group = zarr.open_group(str(path), mode="a", zarr_format=version)
    group.attrs.update(attributes)
    for name, pixels in (arrays or {}).items():
        layout = {"chunks": tuple(min(n, 16) for n in pixels.shape), **options}
        array = group.create_array(name, shape=pixels.shape, dtype=pixels.dtype, **layout)
        array[...] = pixels
    return group


def axis(name: str, unit: str | None = "nanometer") -> dict:
    if name not in "zyx":
        return {"name": name, "type": "channel"}
    return {"name": name, "type": "space"} | ({"unit": unit} if unit else {})


def scale(*vector: float) -> list[dict]:
    return [{"type": "scale", "scale": list(vector)}]


def multiscale(axes, scales: list[dict] | None = None, path: str = "0", **more) -> dict:
    dataset = {"path": path} | ({"coordinateTransformations": scales} if scales else {})
    return {"datasets": [dataset]} | ({"axes": axes} if axes is not None else {}) | more


def sizes(source) -> list[tuple[float, float]]:
    return [(f.header.nm_per_pixel, f.header.nm_per_pixel_y) for f in source.frames]


def survey(path: Path) -> tuple[dict, list[dict]]:
    return survey_file(Entry(path.name, str(path), 0), Archive())


@pytest.mark.parametrize("version", ["0.1", "0.2"])
def test_early_versions_have_five_axes_in_fixed_order(tmp_path, version):
    pixels = np.stack([image(k) for k in range(6)]).reshape(2, 1, 3, 48, 64)
    write_group(tmp_path / "x.zarr", {"multiscales": [multiscale(None, version=version)]}, {"0": pixels})
    source = open_source(tmp_path / "x.zarr")
    assert (source.format, source.kind, len(source.frames)) == ("OME-Zarr", "stack", 6)
    for frame, plane in zip(source.frames, pixels.reshape(6, 48, 64)):
        np.testing.assert_array_equal(frame.read(), plane)
    assert all(map(math.isnan, np.ravel(sizes(source))))


def test_version_three_names_axes_only(tmp_path):
    pixels = np.stack([image(k) for k in range(3)])
    attributes = {"multiscales": [multiscale(["c", "y", "x"], version="0.3")]}
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels})
    source = open_source(tmp_path / "x.zarr")
    np.testing.assert_array_equal([f.read() for f in source.frames], pixels)


@pytest.mark.parametrize(
    ("axes", "level", "whole", "expected"),
    [
        ("yx", scale(0.5, 0.5), [], (0.5, 0.5)),
        ("yx", scale(1, 1), scale(0.5, 0.5), (0.5, 0.5)),
        ("yx", scale(2, 4), scale(0.5, 0.25), (1.0, 1.0)),
        ("yx", scale(3, 2), [], (2.0, 3.0)),
        ("yx", [], scale(0.5, 0.5), (0.5, 0.5)),
        ("yx", [*scale(0.5, 0.5), {"type": "translation", "translation": [9, 9]}], [], (0.5, 0.5)),
        ("yx", [{"type": "identity"}], [], (math.nan, math.nan)),
        ("yx", scale(-0.5, 0.5), [], (0.5, 0.5)),
        ("xy", scale(2, 3), [], (2.0, 3.0)),
        ("zyx", scale(9, 2, 2), [], (2.0, 2.0)),
        ("zyx", scale(2, 2), [], (math.nan, math.nan)),
        ("yxc", scale(2, 2, 1), [], (2.0, 2.0)),
        ("yx", [{"type": "path", "scale": [1, 1]}], [], (math.nan, math.nan)),
        ("yx", [{"type": "sequence", "transformations": scale(0.5, 0.5)}], [], (0.5, 0.5)),
    ],
)
@pytest.mark.parametrize("version", [2, 3])
def test_scales_of_level_and_image_multiply(tmp_path, axes, level, whole, expected, version):
    shape = tuple({"y": 48, "x": 64, "z": 2, "c": 3}[name] for name in axes)
    images = multiscale([axis(n) for n in axes], level, **({"coordinateTransformations": whole} if whole else {}))
    attributes = {"multiscales": [images]} if version == 2 else {"ome": {"version": "0.5", "multiscales": [images]}}
    pixels = np.random.default_rng(1).integers(0, 255, shape, np.uint8)
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels}, version)
    source = open_source(tmp_path / "x.zarr")
    assert (source.frames[0].height_px, source.frames[0].width_px) == (48, 64)
    assert sizes(source)[0] == pytest.approx(expected, nan_ok=True)


def test_scale_in_an_array_of_the_group(tmp_path):
    attributes = {"multiscales": [multiscale([axis("y"), axis("x")], [{"type": "scale", "path": "spacing"}])]}
    write_group(tmp_path / "x.zarr", attributes, {"0": image(1), "spacing": np.array([3.0, 2.0])})
    assert sizes(open_source(tmp_path / "x.zarr")) == [(2.0, 3.0)]


def test_absent_scale_does_not_cost_the_image(tmp_path):
    attributes = {"multiscales": [multiscale([axis("y"), axis("x")], [{"type": "scale", "path": "spacing"}])]}
    write_group(tmp_path / "x.zarr", attributes, {"0": image(1)})
    source = open_source(tmp_path / "x.zarr")
    np.testing.assert_array_equal(source.frames[0].read(), image(1))
    assert np.isnan(sizes(source)[0]).all()


def test_units_of_y_and_x_differ(tmp_path):
    axes = [axis("y", "micrometer"), axis("x", "angstrom")]
    write_group(tmp_path / "x.zarr", {"multiscales": [multiscale(axes, scale(0.002, 20))]}, {"0": image(1)})
    write_group(tmp_path / "none.zarr", {"multiscales": [multiscale([axis("y", None), axis("x", None)], scale(2, 2))]},
                {"0": image(1)})  # fmt: skip
    assert sizes(open_source(tmp_path / "x.zarr"))[0] == pytest.approx((2.0, 2.0))
    assert all(map(math.isnan, sizes(open_source(tmp_path / "none.zarr"))[0]))


def test_channels_last_are_one_colour_image(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 255, (48, 64, 3), np.uint8)
    attributes = {"multiscales": [multiscale([axis(n) for n in "yxc"], scale(0.5, 0.5, 1))]}
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels})
    zarr.create_array(str(tmp_path / "bare.zarr"), data=pixels, chunks=(16, 16, 3))
    for name in ("x.zarr", "bare.zarr"):
        (frame,) = open_source(tmp_path / name).frames
        assert frame.is_colour
        np.testing.assert_array_equal(frame.read_rows(3, 40), pixels[3:40])


def test_every_multiscale_is_an_image_and_labels_none(tmp_path):
    axes = [axis("y"), axis("x")]
    images = [multiscale(axes, scale(1, 1)), multiscale(axes, scale(1, 1)), multiscale(axes, scale(3, 3), "second")]
    write_group(tmp_path / "x.zarr", {"multiscales": images}, {"0": image(1), "second": image(2)})
    labels = {"multiscales": [multiscale(axes)], "image-label": {"version": "0.4"}}
    write_group(tmp_path / "x.zarr" / "labels", {"labels": ["cells"]})
    write_group(tmp_path / "x.zarr" / "labels" / "cells", labels, {"0": image(3)})
    source = open_source(tmp_path / "x.zarr")
    assert sizes(source) == [(1.0, 1.0), (3.0, 3.0)]
    np.testing.assert_array_equal(source.frames[1].read(), image(2))
    assert open_source(tmp_path / "x.zarr" / "labels" / "cells").frames == ()


@pytest.mark.parametrize("has_list", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_series_as_bioformats2raw_writes_them(tmp_path, has_list, version):
    wrap = (lambda a: a) if version == 2 else (lambda a: {"ome": a})
    write_group(tmp_path / "x.zarr", wrap({"bioformats2raw.layout": 3}), version=version)
    if has_list:
        write_group(tmp_path / "x.zarr" / "OME", wrap({"series": ["0", "10", "2"]}), version=version)
    for k in (0, 2, 10):
        attributes = wrap({"multiscales": [multiscale([axis("y"), axis("x")], scale(k + 1, k + 1))]})
        write_group(tmp_path / "x.zarr" / str(k), attributes, {"0": image(k)}, version)
    source = open_source(tmp_path / "x.zarr")
    order = [1, 11, 3] if has_list else [1, 3, 11]
    assert [f.header.nm_per_pixel for f in source.frames] == order
    np.testing.assert_array_equal(source.frames[1].read(), image(order[1] - 1))


OME_XML = """<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06">
<Instrument ID="Instrument:0"><Microscope Model="Talos"/></Instrument>
<Image ID="Image:0"><AcquisitionDate>2024-03-05T10:11:12</AcquisitionDate><Pixels ID="Pixels:0" SizeX="64" SizeY="48"
 SizeC="1" SizeZ="1" SizeT="1" DimensionOrder="XYZCT" Type="uint16" PhysicalSizeX="0.002"
 PhysicalSizeY="0.003"/></Image>
<Image ID="Image:1"><Pixels ID="Pixels:1" SizeX="64" SizeY="48" SizeC="3" SizeZ="1" SizeT="1" DimensionOrder="XYCZT"
 Type="uint8" PhysicalSizeX="5" PhysicalSizeXUnit="nm" PhysicalSizeY="5" PhysicalSizeYUnit="nm">
 <Channel ID="Channel:1:0" SamplesPerPixel="3"/></Pixels></Image></OME>"""


def test_ome_xml_of_bioformats2raw_fills_the_header(tmp_path):
    colour = np.random.default_rng(4).integers(0, 255, (3, 48, 64), np.uint8)
    write_group(tmp_path / "x.zarr", {"bioformats2raw.layout": 3})
    first = multiscale([axis(n, None) for n in "yx"], scale(1, 1))
    second = multiscale([axis(n) for n in "cyx"], scale(1, 7, 7))
    write_group(tmp_path / "x.zarr" / "0", {"multiscales": [first]}, {"0": image(1)})
    write_group(tmp_path / "x.zarr" / "1", {"multiscales": [second]}, {"0": colour})
    write_group(tmp_path / "x.zarr" / "OME", {"series": ["0", "1"]})
    (tmp_path / "x.zarr" / "OME" / "METADATA.ome.xml").write_text(OME_XML)
    grey_frame, colour_frame = open_source(tmp_path / "x.zarr").frames
    assert sizes(open_source(tmp_path / "x.zarr"))[0] == pytest.approx((2.0, 3.0))
    assert (grey_frame.header.instrument, grey_frame.header.acquired) == ("Talos", "2024-03-05T10:11:12")
    np.testing.assert_array_equal(colour_frame.read_rows(0, 48), np.moveaxis(colour, 0, -1))
    assert "coordinateTransformations states 7 nm" in colour_frame.header.pixel_size_problem
    assert "PhysicalSizeX 5 nm" in colour_frame.header.pixel_size_problem


def test_series_without_the_attribute_of_their_layout(tmp_path):
    write_group(tmp_path / "x.zarr", {})
    first = multiscale([axis(n, None) for n in "yx"], scale(1, 1), path="/0")
    write_group(tmp_path / "x.zarr" / "0", {"multiscales": [first]}, {"0": image(1)})
    (tmp_path / "x.zarr" / "OME").mkdir()
    (tmp_path / "x.zarr" / "OME" / "METADATA.ome.xml").write_text(OME_XML)
    assert sizes(open_source(tmp_path / "x.zarr"))[0] == pytest.approx((2.0, 3.0))


def test_codec_that_is_not_installed_is_named(tmp_path):
    attributes = {"multiscales": [multiscale([axis("y"), axis("x")])]}
    write_group(tmp_path / "x.zarr", attributes, {"0": image(1)})
    document = tmp_path / "x.zarr" / "0" / ".zarray"
    document.write_text(json.dumps(json.loads(document.read_text()) | {"compressor": {"id": "rare_codec"}}))
    row, _ = survey(tmp_path / "x.zarr")
    assert row["status"] == "failed"
    assert "rare_codec" in row["reason"]


def test_attributes_of_a_group_state_a_pixel_size(tmp_path):
    write_group(tmp_path / "x.zarr", {"pixel_size": [0.5, 0.25], "unit": "nm", "voltage": "200 kV"}, {"data": image(1)})
    (frame,) = open_source(tmp_path / "x.zarr").frames
    assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == (0.25, 0.5)
    assert frame.header.voltage_kv == 200.0


def write_plate(path: Path, wells: int, fields: int, absent: tuple[str, ...] = ()) -> None:
    names = [f"A/{k + 1}" for k in range(wells)]
    write_group(path, {"plate": {"wells": [{"path": name} for name in names]}})
    for k, name in enumerate(names):
        if name in absent:
            continue
        write_group(path / name, {"well": {"images": [{"path": str(f)} for f in range(fields)]}})
        for f in range(fields):
            attributes = {"multiscales": [multiscale([axis("y"), axis("x")], scale(2, 2))]}
            write_group(path / name / str(f), attributes, {"0": image(10 * k + f)})


def test_all_wells_and_fields_of_a_plate(tmp_path):
    write_plate(tmp_path / "x.zarr", 3, 2)
    row, found = survey(tmp_path / "x.zarr")
    assert (row["status"], row["n_frames"], row["reason"]) == ("ok", 6, "6 images of 6 arrays")
    assert {frame["nm_per_pixel"] for frame in found} == {2.0}
    np.testing.assert_array_equal(open_source(tmp_path / "x.zarr").frames[3].read(), image(11))


def test_wells_that_are_absent_are_lost_frames(tmp_path):
    write_plate(tmp_path / "x.zarr", 3, 2, absent=("A/2",))
    row, _ = survey(tmp_path / "x.zarr")
    assert (row["status"], row["n_frames"], row["n_frames_lost"]) == ("ok", 4, 1)
    assert row["reason"] == "4 images of 4 arrays; A/2 is absent or broken"
    (tmp_path / "x.zarr" / "A" / "3" / "1" / "0" / ".zarray").write_text("{")
    row, _ = survey(tmp_path / "x.zarr")
    assert (row["status"], row["n_frames"], row["n_frames_lost"]) == ("ok", 3, 2)


def test_group_of_one_array_and_of_several(tmp_path):
    write_group(tmp_path / "one.zarr", {}, {"data": image(1)})
    (frame,) = open_source(tmp_path / "one.zarr").frames
    np.testing.assert_array_equal(frame.read(), image(1))
    arrays = {"bf": image(1), "haadf": image(2), "mask": image(1) > 9000, "wave": image(1).astype("c8"),
              "energies": np.arange(9.0)}  # fmt: skip
    write_group(tmp_path / "x.zarr", {}, arrays)
    row, found = survey(tmp_path / "x.zarr")
    assert (row["status"], len(found)) == ("ok", 2)
    assert "mask is a mask of true and false" in row["reason"]
    assert "wave is complex values" in row["reason"]
    assert "energies" not in row["reason"]


def test_levels_of_a_pyramid_without_metadata(tmp_path):
    pixels = image(1, (96, 128))
    write_group(tmp_path / "x.zarr", {}, {"0": pixels, "1": pixels[::2, ::2], "2": pixels[::4, ::4]})
    row, found = survey(tmp_path / "x.zarr")
    assert [(f["height_px"], f["width_px"]) for f in found] == [(96, 128)]
    assert row["reason"] == "1 is a coarser level of 0; 2 is a coarser level of 0"


def test_nested_groups_hold_images(tmp_path):
    write_group(tmp_path / "x.zarr", {})
    write_group(tmp_path / "x.zarr" / "a", {}, {"image": image(1)})
    attributes = {"multiscales": [multiscale([axis("y"), axis("x")], scale(2, 2))]}
    write_group(tmp_path / "x.zarr" / "b", attributes, {"0": image(2)})
    source = open_source(tmp_path / "x.zarr")
    assert [f.header.foreign["zarr.path"] for f in source.frames] == ["a/image", "b/0"]
    assert source.frames[1].header.nm_per_pixel == 2.0


@pytest.mark.parametrize("version", [2, 3])
def test_groups_without_metadata_of_their_own(tmp_path, version):
    for name, k in (("a/s0", 1), ("b", 2)):
        zarr.create_array(str(tmp_path / "x.zarr" / name), data=image(k), chunks=(16, 16), zarr_format=version)
    source = open_source(tmp_path / "x.zarr")
    assert [f.header.foreign["zarr.path"] for f in source.frames] == ["b", "a/s0"]
    np.testing.assert_array_equal([f.read() for f in source.frames], [image(2), image(1)])


def test_abtem_images_are_transposed_and_in_angstrom(tmp_path):
    settings = {
        "sampling": [0.2, 0.5],
        "ensemble_axes_metadata": [],
        "metadata": {"energy": 200e3, "label": "intensity"},
    }
    pixels = image(1, (64, 48)).astype("f4")
    write_group(tmp_path / "x.zarr", {"type0": "Images", "kwargs0": settings}, {"array0": pixels})
    (frame,) = open_source(tmp_path / "x.zarr").frames
    np.testing.assert_array_equal(frame.read(), pixels.T)
    assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == pytest.approx((0.02, 0.05))
    assert frame.header.voltage_kv == 200.0
    attributes = {"type0": "DiffractionPatterns", "kwargs0": settings}
    write_group(tmp_path / "d.zarr", attributes, {"array0": pixels})
    assert open_source(tmp_path / "d.zarr").kind == "diffraction"


@pytest.mark.parametrize("version", [2, 3])
def test_xarray_names_axes_and_has_coordinates(tmp_path, version):
    group = write_group(tmp_path / "x.zarr", {}, version=version)
    data = {"image": (("x", "y"), image(1)), "x": (("x",), np.arange(48) * 2.0), "y": (("y",), np.arange(64) * 3.0)}
    for name, (dims, values) in data.items():
        names = {"dimension_names": dims} if version == 3 else {}
        array = group.create_array(name, shape=values.shape, chunks=values.shape, dtype=values.dtype, **names)
        array[...] = values
        array.attrs.update({"units": "nm"} | ({"_ARRAY_DIMENSIONS": dims} if version == 2 else {}))
    (frame,) = open_source(tmp_path / "x.zarr").frames
    np.testing.assert_array_equal(frame.read(), image(1).T)
    assert (frame.header.nm_per_pixel, frame.header.nm_per_pixel_y) == (2.0, 3.0)


LAYOUTS = {
    "v2 nested": {"version": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    "v2 flat": {"version": 2, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3": {"version": 3},
    "v3 flat": {"version": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
    "v3 keys of v2": {"version": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
    "v3 shards": {"version": 3, "shards": (2, 32, 64), "chunks": (1, 16, 16)},
    "v2 order F": {"version": 2, "order": "F"},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("is_consolidated", [True, False])
def test_chunks_in_every_layout(tmp_path, layout, is_consolidated):
    pixels = np.stack([image(k) for k in range(3)])
    options = dict(LAYOUTS[layout])
    attributes = {"multiscales": [multiscale([axis(n) for n in "zyx"], scale(1, 2, 2))]}
    attributes = attributes if options["version"] == 2 else {"ome": attributes}
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels}, **options)
    if is_consolidated:
        warnings.simplefilter("ignore")  # zarr-python warns that version 3 does not have them yet
        zarr.consolidate_metadata(str(tmp_path / "x.zarr"))
    row, found = survey(tmp_path / "x.zarr")
    assert (row["status"], [f["damage"] for f in found]) == ("ok", [None] * 3)
    for frame, plane in zip(open_source(tmp_path / "x.zarr").frames, pixels):
        np.testing.assert_array_equal(frame.read(), plane)
        np.testing.assert_array_equal(frame.read(7, 40), plane[7:40])


@settings(max_examples=15, deadline=None)
@given(
    st.permutations("tczyx"),
    st.lists(st.floats(0.01, 100), min_size=10, max_size=10),
    st.sampled_from([("nanometer", 1.0), ("micrometer", 1e3), ("angstrom", 0.1), ("picometer", 1e-3)]),
)
def test_any_order_of_axes_and_any_scale(tmp_path_factory, order, scales, unit):
    path = tmp_path_factory.mktemp("zarr") / "x.zarr"
    shape = tuple({"t": 2, "c": 1, "z": 2, "y": 20, "x": 24}[name] for name in order)
    pixels = np.random.default_rng(3).integers(0, 999, shape, np.uint16)
    images = multiscale(
        [axis(n, unit[0]) for n in order], scale(*scales[:5]), coordinateTransformations=scale(*scales[5:])
    )
    write_group(path, {"multiscales": [images]}, {"0": pixels})
    source = open_source(path)
    product = [a * b * unit[1] for a, b in zip(scales[:5], scales[5:])]
    y = order.index("y")
    x = order.index("x")
    if all(1e-3 <= product[k] <= 1e5 for k in (y, x)):
        assert sizes(source)[0] == pytest.approx((product[x], product[y]))
    stack = [k for k in range(5) if k not in (y, x)]
    planes = np.transpose(pixels, (*stack, y, x)).reshape(-1, 20, 24)
    np.testing.assert_array_equal([frame.read() for frame in source.frames], planes)


def test_n5_names_the_remedy(tmp_path):
    (tmp_path / "x.n5").mkdir()
    (tmp_path / "x.n5" / "attributes.json").write_text(json.dumps({"n5": "2.5.0"}))
    source = open_source(tmp_path / "x.n5")
    assert (source.format, source.kind, "convert it to Zarr" in source.reason) == ("N5", "unknown", True)


@pytest.mark.parametrize(
    "attributes",
    [
        {"multiscales": []},
        {"multiscales": [{}]},
        {"multiscales": [{"datasets": []}]},
        {"multiscales": [{"datasets": [{"path": "9"}]}]},
        {"multiscales": "text"},
        {"multiscales": [{"datasets": [{"path": "0"}], "axes": [1, 2]}]},
        {"multiscales": [{"datasets": [{"path": "0", "coordinateTransformations": [1, {"scale": "a"}]}]}]},
        {"plate": {"wells": [{}]}},
        {"plate": {"wells": 3}},
        {"well": []},
        {"bioformats2raw.layout": 3},
        {"ome": 3},
    ],
)
def test_broken_metadata_are_a_row(tmp_path, attributes):
    write_group(tmp_path / "x.zarr", attributes, {"0": image(1)})
    row, found = survey(tmp_path / "x.zarr")
    assert (row["status"] == "ok") == bool(found)
    assert row["status"] == "ok" or row["reason"]


def test_stack_chunked_over_frames_is_decoded_once(tmp_path, monkeypatch):
    pixels = np.stack([image(k) for k in range(6)])
    zarr.create_array(str(tmp_path / "x.zarr"), data=pixels, chunks=(3, 16, 64))
    n_chunks = []
    check = zarr_arrays.check_chunks
    monkeypatch.setattr(zarr_arrays, "check_chunks", lambda *spans: n_chunks.append(spans[2]) or check(*spans))
    frames = open_source(tmp_path / "x.zarr").frames
    np.testing.assert_array_equal([frame.read() for frame in frames], pixels)
    assert n_chunks == [[(0, 3), (0, 48), (0, 64)], [(3, 6), (0, 48), (0, 64)]]


def test_broken_chunk_costs_only_the_frames_in_it(tmp_path):
    pixels = np.stack([image(k) for k in range(4)]).reshape(2, 2, 48, 64)
    attributes = {"multiscales": [multiscale([axis(n) for n in "tcyx"])]}
    write_group(tmp_path / "x.zarr", attributes, {"0": pixels}, chunks=(2, 1, 48, 64))
    (tmp_path / "x.zarr" / "0" / "0.1.0.0").write_bytes(b"broken")
    row, found = survey(tmp_path / "x.zarr")
    assert ([frame["frame"] for frame in found], row["n_frames_lost"]) == ([0, 2], 2)
