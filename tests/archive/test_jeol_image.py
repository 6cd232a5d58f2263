"""Images of JEOL Analysis Station: pixels and size as RosettaSciIO reads them; element maps are no micrographs."""

import numpy as np
import pytest
from bad_files import image
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jeol_files import write_jeol
from rsciio.jeol import file_reader

from emqa_dask import read_micrograph
from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError


@pytest.mark.parametrize("suffix", [".img", ".map", ".IMG"])
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_images_as_rosettasciio_reads_them(tmp_path, suffix, dtype):
    path = tmp_path / f"View000_0000000{suffix}"
    write_jeol(path, image(1, (40, 60), dtype))
    (expected,) = file_reader(str(path))
    pixels, header = read_micrograph(path)
    assert pixels.dtype == dtype
    np.testing.assert_array_equal(pixels, expected["data"])
    np.testing.assert_array_equal(pixels, image(1, (40, 60), dtype))
    assert header.nm_per_pixel == pytest.approx(expected["axes"][1]["scale"] * 1e3)
    assert header.nm_per_pixel_y == pytest.approx(expected["axes"][0]["scale"] * 1e3)
    assert (header.voltage_kv, header.magnification, header.instrument) == (200.0, 40000.0, "JEM-2100F")
    assert header.acquired == "2017-04-07T18:08:39"
    assert open_source(path).reason == ""


def test_element_maps_are_no_micrographs(tmp_path):
    write_jeol(tmp_path / "View000_0000001.map", image(1, (40, 60), "uint8"), element=6)
    source = open_source(tmp_path / "View000_0000001.map")
    assert (source.kind, source.reason) == ("signal", "an element map (C K) of an EDS scan, not a micrograph")
    np.testing.assert_array_equal(read_micrograph(tmp_path / "View000_0000001.map")[0], image(1, (40, 60), "uint8"))


def test_other_files_named_map_do_not_fail(tmp_path):
    (tmp_path / "x.map").write_bytes(b"\x34\x12\0\0" + bytes(4000))
    (tmp_path / "bundle.js.map").write_text('{"version": 3, "sources": []}')
    assert not any(open_source(tmp_path / name).is_failed for name in ("x.map", "bundle.js.map"))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 500), st.integers(0, 255), st.integers(0, 3000))
def test_damaged_files_never_crash(tmp_path, position, byte, n_cut):
    write_jeol(tmp_path / "x.img", image(1, (40, 60), "uint8"), element=6)
    data = bytearray((tmp_path / "x.img").read_bytes())
    data[position] = byte
    (tmp_path / "x.img").write_bytes(data[: len(data) - n_cut])
    try:
        for frame in open_source(tmp_path / "x.img", sniffed="JEOL image").frames:
            frame.read()
    except ReadError:
        pass


def test_real_element_map(real):
    path = real / "formats_more" / "jeol" / "View000_0000001.map"
    (expected,) = file_reader(str(path))
    pixels, header = read_micrograph(path)
    np.testing.assert_array_equal(pixels, expected["data"])
    assert header.nm_per_pixel == pytest.approx(8.69140625)
    assert open_source(path).kind == "signal"
