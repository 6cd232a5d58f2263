"""What the vendors write into TIFF tags: pixel size, voltage, magnification, instrument, date."""

import math

import numpy as np
import pytest
import tifffile

from emqa_dask import read_micrograph

IMAGE = np.zeros((768, 1024), np.uint8)


def header_of(tmp_path, tags=(), **options):
    """The Header that comes back for an image with these extra ASCII tags (number, text)."""
    extra = [(number, 2, len(words.encode()) + 1, words.encode() + b"\0", True) for number, words in tags]
    tifffile.imwrite(tmp_path / "x.tif", IMAGE, extratags=extra, **({"metadata": None} | options))
    return read_micrograph(tmp_path / "x.tif")[1]


def test_zeiss(tmp_path):
    lines = ["0", "0", "0", "1.5e-09", *["0"] * 5, "AP_MAG", "Mag =  5.00 K X", "AP_ACTUALKV", "EHT =  3.00 kV"]
    lines += ["DP_SEM", "SEM = Merlin-61-08", "AP_DATE", "Date :13 Jul 2018", "AP_TIME", "Time :12:18:34"]
    header = header_of(tmp_path, [(34118, "\r\n".join(lines) + "\r\n")])
    assert header.nm_per_pixel == pytest.approx(1.5)
    assert (header.voltage_kv, header.magnification, header.instrument) == (3.0, 5000.0, "Merlin-61-08")
    assert header.acquired == "2018-07-13T12:18:34"


def test_fei(tmp_path):
    words = "[User]\r\nDate=03/04/2019\r\nTime=01:02:03 PM\r\n[System]\r\nSystemType=Quanta\r\n[Beam]\r\nHV=20000\r\n"
    words += "[Scan]\r\nPixelWidth=2.5e-009\r\nPixelHeight=2.5e-009\r\nFrameTime=1.5\r\n"
    header = header_of(tmp_path, [(34682, words)])
    assert header.nm_per_pixel == pytest.approx(2.5)
    assert (header.voltage_kv, header.instrument, header.exposure_s) == (20.0, "Quanta", 1.5)
    assert header.acquired == "2019-03-04T13:02:03"


def test_fei_xml(tmp_path):
    words = (
        '<Metadata><PixelWidth unit="nm">0.31</PixelWidth><AccelerationVoltage>200000</AccelerationVoltage></Metadata>'
    )
    header = header_of(tmp_path, [(34683, words)])
    assert (header.nm_per_pixel, header.voltage_kv) == (pytest.approx(0.31), 200.0)


def test_jeol_sightx(tmp_path):
    words = "<TemReporter><ModeString>MAG</ModeString><SelectorValue>20000</SelectorValue>"
    words += "<AccelerationVoltage>120000</AccelerationVoltage></TemReporter>"
    header = header_of(tmp_path, [(271, "JEOL Ltd.")], description=words, resolution=(1000, 1000), resolutionunit=3)
    assert header.nm_per_pixel == pytest.approx(0.5)
    assert header.voltage_kv == 120.0


def test_digitalmicrograph(tmp_path):
    extra = [(65003, 2, 3, b"nm\0", True), (65009, 12, 1, 0.25, True)]
    tifffile.imwrite(tmp_path / "x.tif", IMAGE, extratags=extra, metadata=None)
    assert read_micrograph(tmp_path / "x.tif")[1].nm_per_pixel == 0.25


@pytest.mark.parametrize(("unit", "nm"), [("micron", 500.0), ("µm", 500.0), ("nm", 0.5), ("pixel", math.nan)])
def test_imagej(tmp_path, unit, nm):
    escaped = unit.encode("ascii", "backslashreplace").decode()  # µ as ImageJ writes it: \\u00b5
    header = header_of(tmp_path, imagej=True, resolution=(2, 2), metadata={"unit": escaped.replace("\\xb5", "\\u00B5")})
    assert header.nm_per_pixel == pytest.approx(nm, nan_ok=True)


@pytest.mark.parametrize(
    ("per_unit", "unit", "nm"), [(300, 2, math.nan), (118.11, 3, math.nan), (2e7, 3, 0.5), (1, 1, math.nan)]
)
def test_resolution_alone(tmp_path, per_unit, unit, nm):
    header = header_of(tmp_path, resolution=(per_unit, per_unit), resolutionunit=unit)
    assert header.nm_per_pixel == pytest.approx(nm, nan_ok=True)


@pytest.mark.parametrize("number", [34118, 34680, 34682, 34683, 65003])
def test_broken_tags_do_not_cost_the_pixels(tmp_path, number):
    header = header_of(tmp_path, [(number, "\x01not what the vendor writes=\r\n[")])
    assert math.isnan(header.nm_per_pixel)
