"""Files that microscopes write beside an image: pixel size and conditions, in folders and in buckets."""

import gzip
import hashlib
import json
import math
import os
import time
import uuid

import fsspec
import numpy as np
import pytest
import tifffile
from bad_files import image, write_mrc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from emqa_dask.archive.companions import find_sidecars, index_sidecars, name_owner
from emqa_dask.archive.readers import open_source, read_micrograph
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.survey import survey_file
from emqa_dask.settings import Archive

WIDTH = 48

JEOL = (
    "$CM_FORMAT JEOL/EO\r\n$CM_VERSION 1.0\r\n$CM_DATE 9/14/2026\r\n$CM_TIME 13:42:09\r\n$CM_INSTRUMENT JSM-7800F\r\n"
    "$CM_ACCEL_VOLT 15.00\r\n$CM_MAG 5000\r\n$CM_SIGNAL LEI\r\n$CM_FULL_SIZE {width} 960\r\n"
    "$CM_STAGE_POS 2.044 -0.704 10.2 11.0 0.0 0\r\n$$SM_MICRON_BAR {bar}\r\n$$SM_MICRON_MARKER {marker}\r\n"
)
HITACHI = (
    "[{section}]\r\nInstructName=SU8230\r\nSerialNumber=8230-01\r\nImageName=a.tif\r\nDate=09/14/2026\r\n"
    "Time=13:42:09\r\nDataSize={width}x960\r\nPixelSize={size}\r\nSignalName=SE(U)\r\n"
    "AcceleratingVoltage=15000 Volt\r\nMagnification=5000\r\nWorkingDistance=8100 um\r\n"
    "StagePositionX=2044000\r\nStagePositionY=-704000\r\nStagePositionZ=10200000\r\nStageTilt=12.5\r\n"
)
TESCAN = (
    "[MAIN]\r\nAccFrames=2\r\nDate=2026-09-14\r\nDevice=MIRA3 LMH\r\nMagnification=5000.0\r\nPixelSizeX={size}\r\n"
    "PixelSizeY={size}\r\nTime=13:42:09\r\n\r\n[SEM]\r\nDetector=In-Beam SE\r\nDwellTime=1e-06\r\nHV=15000.0\r\n"
    "PredictedBeamCurrent=1.602176634e-10\r\nStageTilt=12.5\r\nStageX=0.002044\r\nStageY=-0.000704\r\nStageZ=0.0102\r\n"
)
EPU = (
    "<?xml version='1.0' encoding='utf-8'?><MicroscopeImage xmlns='http://schemas.datacontract.org/2004/07/Fei.SharedObjects'"
    " xmlns:i='http://www.w3.org/2001/XMLSchema-instance'><CustomData xmlns:a="
    "'http://schemas.microsoft.com/2003/10/Serialization/Arrays'><a:KeyValueOfstringanyType><a:Key>Dose</a:Key>"
    "<a:Value i:type='b:double' xmlns:b='http://www.w3.org/2001/XMLSchema'>4E+21</a:Value></a:KeyValueOfstringanyType>"
    "<a:KeyValueOfstringanyType><a:Key>DetectorCommercialName</a:Key><a:Value>Falcon 4i</a:Value>"
    "</a:KeyValueOfstringanyType></CustomData><microscopeData><acquisition>"
    "<acquisitionDateTime>2026-09-14T13:42:09.1234567+02:00</acquisitionDateTime><camera><Binning "
    "xmlns:a='http://schemas.datacontract.org/2004/07/System.Drawing'><a:x>2</a:x><a:y>2</a:y></Binning>"
    "<ExposureTime>4.8</ExposureTime><Name>BM-Falcon</Name><ReadoutArea><a:height xmlns:a='u'>32</a:height>"
    "<a:width xmlns:a='u'>{width}</a:width></ReadoutArea></camera></acquisition><gun><AccelerationVoltage>300000"
    "</AccelerationVoltage></gun><instrument><InstrumentModel>TITAN52339070</InstrumentModel></instrument><optics>"
    "<ProjectorMode>{mode}</ProjectorMode><TemMagnification><NominalMagnification>105000</NominalMagnification>"
    "</TemMagnification></optics><stage><Position><A>0.5</A><B>0</B><X>0.000123</X><Y>-4.5E-05</Y><Z>1E-05</Z>"
    "</Position></stage></microscopeData><SpatialScale><pixelSize><x><numericValue>{size}</numericValue><unit>"
    "<Symbol>m</Symbol></unit></x><y><numericValue>{size}</numericValue></y></pixelSize></SpatialScale></MicroscopeImage>"
)
MDOC = (
    "PixelSpacing = 5.4\r\nVoltage = 300\r\nImageFile = a.mrc\r\nImageSize = {width} 32\r\nDataMode = 1\r\n\r\n"
    "[T = SerialEM: Digitized on Krios 3.1               14-Sep-26  13:42:09    ]\r\n\r\n"
)
MDOC_SECTION = (
    "[ZValue = {k}]\r\nTiltAngle = {tilt}\r\nStagePosition = 123.5 -45.25\r\nStageZ = 10\r\nMagnification = 105000\r\n"
    "ExposureDose = 3.5\r\nDoseRate = 2.8\r\nPixelSpacing = 5.4\r\nExposureTime = 0.8\r\nBinning = 1\r\n"
    "Defocus = -1.25\r\nNumSubFrames = 4\r\nFrameDosesAndNumber = 0.75 4\r\nDateTime = 14-Sep-26  13:42:09\r\n\r\n"
)
NION = '{"version": 1, "spatial_calibrations": [{"scale": 0.5, "units": "nm"}, {"scale": 0.5, "units": "nm"}]}'


def write_image(path, width=WIDTH, n_frames=1):
    pixels = np.stack([image(k, (32, width)) for k in range(n_frames)])
    if path.suffix in (".mrc", ".st"):
        write_mrc(path, pixels, angstrom=0.0)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, pixels if n_frames > 1 else pixels[0], metadata=None, photometric="minisblack")
    else:
        Image.fromarray((pixels[0] >> 8).astype(np.uint8)).save(path)


def read_header(path):
    return read_micrograph(path)[1]


def check_conditions(header):
    assert (header.voltage_kv, header.magnification) == (15, 5000)
    assert header.acquired == "2026-09-14T13:42:09"
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((2044, -704, 10200))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "cp1252"])
@pytest.mark.parametrize(("marker", "nm"), [("1µm", 20), ("500nm", 10), ("100um", 2000), ("0.5 μm", 10)])
def test_jeol_marker(tmp_path, encoding, marker, nm):
    write_image(tmp_path / "a.bmp")
    text = JEOL.format(width=WIDTH, bar=50, marker=marker if encoding != "cp1252" else marker.replace("μ", "µ"))
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    header = read_header(tmp_path / "a.bmp")
    assert header.nm_per_pixel == header.nm_per_pixel_y == pytest.approx(nm)
    assert (header.nm_per_pixel_source, header.pixel_size_problem) == ("sidecar", None)
    check_conditions(header)
    assert (header.instrument, header.detector) == ("JSM-7800F", "LEI")


def test_jeol_in_shift_jis(tmp_path):
    write_image(tmp_path / "a.tif")
    title = "$CM_TITLE 試料の写真です。倍率と加速電圧を記録した\r\n"
    (tmp_path / "a.txt").write_bytes((title + JEOL.format(width=WIDTH, bar=50, marker="1um")).encode("shift-jis"))
    assert read_header(tmp_path / "a.tif").nm_per_pixel == pytest.approx(20)
    assert open_source(tmp_path / "a.txt").kind == "metadata"


def test_jeol_stage_by_axis(tmp_path):
    write_image(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text("$CM_STAGE_POSITION X=37.1761, Y=-44.9344, R=354.9968, Z=16.90, T=7.50\n")
    header = read_header(tmp_path / "a.tif")
    values = (header.stage_x_um, header.stage_y_um, header.stage_z_um, header.tilt_deg)
    assert values == pytest.approx((37176.1, -44934.4, 16900, 7.5))
    assert math.isnan(header.nm_per_pixel)


@pytest.mark.parametrize("section", ["SemImageFile", "TemImageFile", "SEMIMAGEFILE"])
@pytest.mark.parametrize(("size", "nm"), [("2.48", 2.48), ("2,48", 2.48), ("2", 2), ("0.25 um", 250)])
def test_hitachi_pixel_size(tmp_path, section, size, nm):
    write_image(tmp_path / "a.jpg")
    (tmp_path / "a.TXT").write_bytes(HITACHI.format(section=section, size=size, width=WIDTH).encode("utf-16"))
    header = read_header(tmp_path / "a.jpg")
    assert header.nm_per_pixel == pytest.approx(nm)
    assert (header.nm_per_pixel_source, header.pixel_size_problem) == ("sidecar", None)
    check_conditions(header)
    assert (header.instrument, header.detector, header.tilt_deg) == ("SU8230", "SE(U)", 12.5)


@pytest.mark.parametrize("name", ["a.hdr", "a-tif.hdr", "a.tif.hdr", "A-TIF.HDR", "a.Hdr"])
def test_tescan_header(tmp_path, name):
    write_image(tmp_path / "a.tif")
    (tmp_path / name).write_text(TESCAN.format(size="2e-09"))
    header = read_header(tmp_path / "a.tif")
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2, 2))
    assert header.nm_per_pixel_source == "sidecar"
    check_conditions(header)
    assert (header.instrument, header.detector, header.tilt_deg) == ("MIRA3 LMH", "In-Beam SE", 12.5)
    assert header.dose_e_per_nm2 == pytest.approx(1e9 * 1e-6 * 2 / 4)  # 1e9 electrons/s, 1 us, 2 scans, 4 nm2


@pytest.mark.parametrize(
    ("name", "sidecar", "n_frames"),
    [
        ("a.mrc", "a.xml", 1), ("a.tiff", "a.xml", 1),
        ("a_Fractions.tiff", "a.xml", 4), ("a_fractions.mrc", "a.XML", 4), ("a-376198_frames.mrc", "a.xml", 4),
    ],
)  # fmt: skip
def test_epu_xml(tmp_path, name, sidecar, n_frames):
    write_image(tmp_path / name, n_frames=n_frames)
    (tmp_path / sidecar).write_text(EPU.format(size="8.25E-11", width=WIDTH, mode="Imaging"))
    header = read_header(tmp_path / name)
    assert header.nm_per_pixel == pytest.approx(0.0825)
    assert (header.nm_per_pixel_source, header.pixel_size_problem) == ("sidecar", None)
    assert (header.voltage_kv, header.magnification, header.instrument) == (300, 105000, "TITAN52339070")
    assert (header.detector, header.acquired) == ("Falcon 4i", "2026-09-14T13:42:09.123456+02:00")
    assert header.dose_e_per_nm2 == pytest.approx(4000 / n_frames)
    assert header.exposure_s == pytest.approx(4.8 / n_frames)
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((123, -45, 10))
    assert header.tilt_deg == pytest.approx(math.degrees(0.5))


def test_epu_diffraction_is_no_micrograph(tmp_path):
    write_image(tmp_path / "a.tif")
    text = EPU.format(size="8.25E-11", width=WIDTH, mode="Diffraction")
    (tmp_path / "a.xml").write_text(text)
    source = open_source(tmp_path / "a.tif")
    assert (source.kind, len(source.frames)) == ("diffraction", 0)
    assert source.reason == "a diffraction pattern by the projector mode Diffraction in a.xml, not a micrograph"
    (start, stop) = (text.index("<camera>"), text.index("</camera>"))
    (tmp_path / "a.xml").write_text(f"{text[:start]}<camera/><scan/>{text[stop + len('</camera>') :]}")  # STEM
    assert read_header(tmp_path / "a.tif").nm_per_pixel == pytest.approx(0.0825)


@pytest.mark.parametrize(
    ("text", "nm"),
    [
        ("<Metadata><BinaryResult><PixelSize><X unit='m' unitPrefixPower='1'>2E-09</X></PixelSize></BinaryResult>", 2),
        ("<Metadata><BinaryResult><PixelSize><X unit='m' unitPrefixPower='-9'>2</X></PixelSize></BinaryResult>", 2),
        ("<FeiImage><pixelWidth unit='nm'>2</pixelWidth><pixelHeight unit='nm'>2</pixelHeight></FeiImage>", 2),
    ],
)
def test_xml_of_thermo_fisher(tmp_path, text, nm):
    write_image(tmp_path / "a.tif")
    (tmp_path / "a.xml").write_text(text)
    header = read_header(tmp_path / "a.tif")
    assert (header.nm_per_pixel, header.nm_per_pixel_source) == (pytest.approx(nm), "sidecar")
    assert ("unitPrefixPower" in (header.pixel_size_problem or "")) == ("-9" in text)


@pytest.mark.parametrize("name", ["a.mrc", "a.st", "a.tif"])
def test_serialem_section_per_frame(tmp_path, name):
    write_image(tmp_path / name, n_frames=3)
    sections = "".join(MDOC_SECTION.format(k=k, tilt=k * 2.5 - 2) for k in range(3))
    (tmp_path / f"{name}.mdoc").write_text(MDOC.format(width=WIDTH) + sections)
    headers = [frame.header for frame in open_source(tmp_path / name).frames]
    assert [header.tilt_deg for header in headers] == [-2, 0.5, 3]
    for header in headers:
        assert header.nm_per_pixel == pytest.approx(0.54)
        assert (header.voltage_kv, header.magnification, header.instrument) == (300, 105000, "Krios 3.1")
        assert (header.dose_e_per_nm2, header.exposure_s) == pytest.approx((350, 0.8))
        assert header.stated_defocus_nm == -1250
        assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == (123.5, -45.25, 10)
        assert header.acquired == "2026-09-14T13:42:09"


def test_serialem_movie_divides_its_exposure(tmp_path):
    write_image(tmp_path / "a.tif", n_frames=4)
    section = MDOC_SECTION.format(k=0, tilt=1).replace("ZValue", "FrameSet")
    (tmp_path / "a.tif.mdoc").write_text(section)
    header = read_header(tmp_path / "a.tif")
    assert (header.dose_e_per_nm2, header.exposure_s) == pytest.approx((75, 0.2))
    (tmp_path / "a.tif.mdoc").write_text(section.replace("FrameDosesAndNumber", "Unknown"))
    assert read_header(tmp_path / "a.tif").dose_e_per_nm2 == pytest.approx(87.5)


def test_serialem_sections_of_other_number_share_values(tmp_path):
    write_image(tmp_path / "a.mrc", n_frames=3)
    sections = "".join(MDOC_SECTION.format(k=k, tilt=k) for k in range(2))
    (tmp_path / "a.mrc.mdoc").write_text(MDOC.format(width=WIDTH) + sections)
    header = read_header(tmp_path / "a.mrc")
    assert header.nm_per_pixel == pytest.approx(0.54)
    assert math.isnan(header.tilt_deg)


def test_serialem_series_of_files(tmp_path):
    write_image(tmp_path / "a0001.tif")
    sections = "".join(
        MDOC_SECTION.format(k=k, tilt=k).replace(f"ZValue = {k}", f"Image = a{k:04d}.tif") for k in range(3)
    )
    (tmp_path / "a.idoc").write_text(MDOC.format(width=WIDTH) + sections)
    header = read_header(tmp_path / "a0001.tif")
    assert (header.tilt_deg, header.nm_per_pixel) == (1, pytest.approx(0.54))


@pytest.mark.parametrize(
    ("width", "binning", "is_doubtful"),
    [(11520, "1", True), (7676, "0.5", False), (3838, "0.5", True), (5760, "1", False)],
)
def test_serialem_super_resolution(tmp_path, width, binning, is_doubtful):
    write_image(tmp_path / "a.tif", width=width)
    text = "T = SerialEM: Glacios 9953405 at Stanford        26-Oct-23  14:55:45\nVoltage = 200\n\n[FrameSet = 0]\n"
    (tmp_path / "a.tif.mdoc").write_text(f"{text}PixelSpacing = 0.8\nBinning = {binning}\nFrameDosesAndNumber = 0 18\n")
    header = read_header(tmp_path / "a.tif")
    assert (header.nm_per_pixel, header.voltage_kv) == (pytest.approx(0.08), 200)
    assert header.instrument == "Glacios 9953405 at Stanford"
    assert ("super-resolution" in (header.pixel_size_problem or "")) == is_doubtful


@pytest.mark.parametrize(("factor", "n_frames", "nm"), [(1, 3, 0.192), (2, 3, 0.096), (4, 3, 0.048)])
def test_epu_movie_has_more_pixels_than_its_sum(tmp_path, factor, n_frames, nm):
    pixels = np.stack([image(k, (32 * factor, WIDTH * factor)) for k in range(n_frames)])
    tifffile.imwrite(tmp_path / "a_Fractions.tiff", pixels, photometric="minisblack")
    (tmp_path / "a.xml").write_text(EPU.format(size="1.92E-10", width=WIDTH, mode="Imaging"))
    header = read_header(tmp_path / "a_Fractions.tiff")
    assert (header.nm_per_pixel, header.pixel_size_problem) == (pytest.approx(nm), None)


def test_preview_of_an_epu_image_has_a_problem(tmp_path):
    write_image(tmp_path / "a.jpg", width=WIDTH // 2)
    (tmp_path / "a.xml").write_text(EPU.format(size="1.92E-10", width=WIDTH, mode="Imaging"))
    assert "48 px wide and this one has 24" in read_header(tmp_path / "a.jpg").pixel_size_problem


@pytest.mark.parametrize(("unit", "nm"), [("nm", 0.5), ("um", 500), ("1/nm", math.nan)])
def test_json_of_nion_swift(tmp_path, unit, nm):
    calibrations = [{"offset": 0.0, "scale": 0.5, "units": unit}] * 2
    metadata = {"instrument": {"high_tension": 100000}, "hardware_source": {"exposure": 0.25, "channel_name": "HAADF"}}
    text = json.dumps({"version": 1, "spatial_calibrations": calibrations, "metadata": metadata})
    np.save(tmp_path / "a.npy", image(1, (32, WIDTH)))
    (tmp_path / "a.json").write_text(text)
    source = open_source(tmp_path / "a.npy")
    assert source.kind == ("micrograph" if nm > 0 else "diffraction")
    for frame in source.frames:
        header = frame.header
        assert (header.nm_per_pixel, header.voltage_kv, header.exposure_s) == (pytest.approx(nm), 100, 0.25)
        assert (header.detector, header.nm_per_pixel_source) == ("HAADF", "sidecar")
    assert open_source(tmp_path / "a.json").kind == "metadata"


def test_sidecar_of_a_packed_image(tmp_path):
    write_image(tmp_path / "a.mrc")
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    (tmp_path / "a.mrc").unlink()
    (tmp_path / "a.mrc.mdoc").write_text(MDOC.format(width=WIDTH) + MDOC_SECTION.format(k=0, tilt=1))
    assert read_header(tmp_path / "a.mrc.gz").nm_per_pixel == pytest.approx(0.54)


def test_direct_electron_movie(tmp_path):
    write_image(tmp_path / "20241021_00405_movie.mrc", n_frames=2)
    text = (
        f"Specimen Pixel Size X (nanometers) = 0.085\nImage Size X (pixels) = {WIDTH}\nCamera Model = DE-64\n"
        "Instrument Project Magnification = 52000\nFrames Per Second = 40\nAutosave Movie Sum Count = 2\n"
        "Scan - Enable = Disable\n"
    )
    (tmp_path / "20241021_00405_info.txt").write_text(text)
    header = read_header(tmp_path / "20241021_00405_movie.mrc")
    assert (header.nm_per_pixel, header.magnification, header.detector) == (0.085, 52000, "DE-64")
    assert header.exposure_s == pytest.approx(0.05)
    assert open_source(tmp_path / "20241021_00405_info.txt").kind == "metadata"


def test_cropped_or_resized_image_has_a_problem(tmp_path):
    write_image(tmp_path / "a.tif", width=24)
    (tmp_path / "a.txt").write_text(JEOL.format(width=WIDTH, bar=50, marker="1um"))
    header = read_header(tmp_path / "a.tif")
    assert "48 px wide and this one has 24" in header.pixel_size_problem


@pytest.mark.parametrize(
    ("angstrom", "width", "problem"),
    [
        (20.0, WIDTH, None), (20.1, WIDTH, None), (40.0, WIDTH // 2, None),
        (30.0, WIDTH, "the image states 3 nm per pixel, PixelSize in a.txt 2 nm"),
        (20.0, WIDTH // 2, "48 px wide and this one has 24"),
    ],
)  # fmt: skip
def test_size_of_the_image_counts(tmp_path, angstrom, width, problem):
    write_mrc(tmp_path / "a.mrc", image(1, (32, width))[None], angstrom=angstrom)
    (tmp_path / "a.txt").write_text(HITACHI.format(section="TemImageFile", size="2", width=WIDTH))
    header = read_header(tmp_path / "a.mrc")
    assert (header.nm_per_pixel, header.nm_per_pixel_source) == (pytest.approx(angstrom / 10), "header")
    assert header.voltage_kv == 15
    if problem is None:
        assert header.pixel_size_problem is None
    else:
        assert problem in header.pixel_size_problem


def test_sidecar_replaces_the_default_of_mrc(tmp_path):
    write_mrc(tmp_path / "a.mrc", image(1, (32, WIDTH))[None], angstrom=1.0)
    assert "exactly 1 Angstrom" in read_header(tmp_path / "a.mrc").pixel_size_problem
    (tmp_path / "a.mrc.mdoc").write_text(MDOC.format(width=WIDTH) + MDOC_SECTION.format(k=0, tilt=1))
    header = read_header(tmp_path / "a.mrc")
    assert (header.nm_per_pixel, header.nm_per_pixel_source) == (pytest.approx(0.54), "sidecar")
    assert header.pixel_size_problem is None


def test_impossible_size_is_refused(tmp_path):
    write_image(tmp_path / "a.tif")
    (tmp_path / "a.hdr").write_text(TESCAN.format(size="0.5"))
    header = read_header(tmp_path / "a.tif")
    assert math.isnan(header.nm_per_pixel)
    assert "no microscope has" in header.pixel_size_problem


def test_other_texts_change_nothing(tmp_path):
    write_image(tmp_path / "a.tif")
    expected = read_header(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.1 0.1\nPixelSize=3\n")
    (tmp_path / "a.xml").write_text("<annotation><size><width>512</width></size></annotation>")
    (tmp_path / "a.hdr").write_text("ENVI\nsamples = 512\n")
    header = read_header(tmp_path / "a.tif")
    assert str(header) == str(expected)
    assert {open_source(tmp_path / f"a.{s}").kind for s in ("txt", "xml", "hdr")} == {"text"}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        (
            "a.txt",
            JEOL.format(width=1, bar=1, marker="1um"),
            "metadata of the image a, written beside it by a JEOL",
        ),
        ("a-tif.hdr", TESCAN, "metadata of the image a.tif, written beside it by a TESCAN SEM"),
        ("a.mrc.mdoc", MDOC + MDOC_SECTION.format(k=0, tilt=0), "image a.mrc, written beside it by SerialEM"),
        ("a.xml", EPU, "metadata of the image a, written beside it by EPU"),
    ],
)
def test_row_of_a_sidecar_names_its_image(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    (entry,) = scan_archive(tmp_path / name) if not name.endswith(".txt") else scan_archive(tmp_path)
    row, rows = survey_file(entry, Archive())
    assert (row["kind"], row["status"], rows) == ("metadata", "skipped", [])
    assert reason in row["reason"]


@pytest.mark.parametrize("n_bytes", [0, 1, 20, 200, 700, 1000, 1300])
@pytest.mark.parametrize(
    ("name", "text"), [("a.xml", EPU), ("a.tif.mdoc", MDOC + MDOC_SECTION), ("a.txt", HITACHI), ("a.hdr", TESCAN)]
)
def test_truncated_sidecars_cost_no_image(tmp_path, name, text, n_bytes):
    write_image(tmp_path / "a.tif")
    (tmp_path / name).write_bytes(text.encode()[:n_bytes] + b"\xff\x00\xfe"[: n_bytes % 4])
    assert len(open_source(tmp_path / "a.tif").frames) == 1


def test_links_and_pipes_beside_an_image_are_not_read(tmp_path):
    folder = tmp_path / "archive"
    folder.mkdir()
    for name in "abc":
        write_image(folder / f"{name}.tif")
    text = HITACHI.format(section="SemImageFile", size="2", width=WIDTH)
    (tmp_path / "secret.txt").write_text(text)
    (folder / "a.txt").symlink_to(tmp_path / "secret.txt")
    os.mkfifo(folder / "b.txt")
    (folder / "other.txt").write_text(text)
    (folder / "c.txt").symlink_to("other.txt")
    sizes = [read_header(folder / f"{name}.tif").nm_per_pixel for name in "abc"]
    assert [size == 2 for size in sizes] == [False, False, True]


@pytest.mark.parametrize("unit", ["\n", " ", "[MAIN]\n", "<Metadata ", "[ZValue = ", "$a  ", "a" + 4000 * " " + "b\n"])
def test_hostile_texts_take_no_time(tmp_path, unit):
    write_image(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text("[MAIN]\nDevice=1\n" * unit.startswith("a") + unit * (2**20 // len(unit)))
    start = time.perf_counter()
    assert len(open_source(tmp_path / "a.tif").frames) == 1
    assert time.perf_counter() - start < 10  # a pattern that looks twice at each character takes minutes


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damaged_sidecars_cost_no_image(tmp_path, data):
    (name, text) = data.draw(
        st.sampled_from([("a.xml", EPU), ("a.tif.mdoc", MDOC + MDOC_SECTION), ("a.txt", JEOL), ("a.json", NION)])
    )
    damaged_bytes = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 20))):
        position = data.draw(st.integers(0, len(damaged_bytes) - 1))
        damaged_bytes[position : position + data.draw(st.integers(1, 9))] = data.draw(st.binary(max_size=9))
    write_image(tmp_path / "a.tif")
    (tmp_path / name).write_bytes(damaged_bytes)
    try:
        assert len(open_source(tmp_path / "a.tif").frames) == 1
        open_source(tmp_path / name)
    finally:
        (tmp_path / name).unlink()


def test_names_in_upper_and_lower_case():
    index = index_sidecars(["A.TXT", "a.txt", "b.Hdr", "c.tif", "B-TIF.hdr"])
    assert list(find_sidecars("a.tif", index)) == ["a.txt"]
    assert list(find_sidecars("A.tif", index)) == ["A.TXT"]
    assert list(find_sidecars("b.tif", index)) == ["b.Hdr", "B-TIF.hdr"]
    assert list(find_sidecars("a.txt", index)) == []
    assert [name_owner(name) for name in ("a-tif.hdr", "a.mrc.mdoc", "a.TXT")] == ["a.tif", "a.mrc", "a"]


def test_companion_of_ome_in_a_bucket():
    folder = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    uuids = [f"urn:uuid:{uuid.uuid4()}" for _ in range(2)]
    start = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID='
    reference = f'<?xml version="1.0"?>{start}"{uuids[1]}">'
    reference += f'<BinaryOnly MetadataFile="x.companion.ome" UUID="{uuids[0]}"/></OME>'
    companion = (
        f'{start}"{uuids[0]}"><Image ID="Image:0"><Pixels '
        'ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="48" SizeY="32" SizeZ="1" SizeC="1" SizeT="1" '
        'PhysicalSizeX="2" PhysicalSizeXUnit="nm" PhysicalSizeY="2" PhysicalSizeYUnit="nm">'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="a.ome.tif">{uuids[1]}</UUID></TiffData>'
        "</Pixels></Image></OME>"
    )
    with fs.open(f"{folder}/a.ome.tif", "wb") as file:
        tifffile.imwrite(file, image(1, (32, WIDTH)), description=reference, metadata=None)
    fs.pipe(f"{folder}/x.companion.ome", companion.encode())
    try:
        rows = {entry.uri: survey_file(entry, Archive()) for entry in scan_archive(folder)}
    finally:
        fs.rm(folder, recursive=True)
    (micrograph,) = rows["a.ome.tif"][1]
    assert (micrograph["nm_per_pixel"], micrograph["nm_per_pixel_source"]) == (2, "header")


@pytest.mark.parametrize("suffix", [".raw", ".RAW"])
def test_pixels_of_ripple_in_a_bucket(suffix):
    folder = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    fields = {"width": WIDTH, "height": 32, "depth": 1, "offset": 0, "data-length": 2, "data-type": "unsigned",
              "byte-order": "little-endian", "record-by": "dont-care", "width-scale": 0.5, "width-units": "nm",
              "height-scale": 0.5, "height-units": "nm"}  # fmt: skip
    text = "key\tvalue\n" + "".join(f"{key}\t{value}\n" for key, value in fields.items())
    pixels = image(1, (32, WIDTH)).astype("<u2")
    fs.pipe({f"{folder}/a.rpl": text.encode(), f"{folder}/a{suffix}": pixels.tobytes()})
    try:
        rows = {entry.uri: survey_file(entry, Archive()) for entry in scan_archive(folder)}
    finally:
        fs.rm(folder, recursive=True)
    (micrograph,) = rows["a.rpl"][1]
    assert micrograph["pixel_sha256"] == hashlib.sha256(pixels.tobytes()).hexdigest()
    assert micrograph["nm_per_pixel"] == 0.5


def test_folder_in_a_bucket():
    folder = f"memory://{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    text = {
        "a.TXT": HITACHI.format(section="SemImageFile", size="2,5", width=WIDTH),
        "s/b-tif.hdr": TESCAN.format(size="2e-09"),
        "s/c.xml": EPU.format(size="5E-11", width=WIDTH, mode="Imaging"),
        "s/d.tif.mdoc": MDOC.format(width=WIDTH) + MDOC_SECTION.format(k=0, tilt=1),
    }
    pixels = image(1, (32, WIDTH))
    for name in ("a.tif", "s/b.tif", "s/c_Fractions.tiff", "s/d.tif", "s/e.tif"):
        with fs.open(f"{folder}/{name}", "wb") as file:
            tifffile.imwrite(file, pixels, metadata=None)
    for name, content in text.items():
        fs.pipe(f"{folder}/{name}", content.encode())
    try:
        rows = [survey_file(entry, Archive()) for entry in scan_archive(folder)]
    finally:
        fs.rm(folder, recursive=True)
    sizes = {row["uri"]: micrographs[0]["nm_per_pixel"] for row, micrographs in rows if micrographs}
    assert math.isnan(sizes.pop("s/e.tif"))
    assert sizes == pytest.approx({"a.tif": 2.5, "s/b.tif": 2, "s/c_Fractions.tiff": 0.05, "s/d.tif": 0.54})
    assert {row["uri"] for row, _ in rows if row["kind"] == "metadata"} == set(text)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    nm=st.floats(0.01, 9999),
    vendor=st.sampled_from(["jeol", "hitachi", "tescan", "epu", "mdoc"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    has_comma=st.booleans(),
    is_upper=st.booleans(),
)
def test_any_pixel_size_is_recovered(tmp_path, nm, vendor, encoding, has_comma, is_upper):
    number = lambda value: f"{value:.9g}".replace(".", "," if has_comma else ".")  # noqa: E731
    (suffix, text) = {
        "jeol": (".txt", JEOL.format(width=WIDTH, bar=100, marker=f"{number(nm / 10)}µm")),
        "hitachi": (".txt", HITACHI.format(section="SemImageFile", size=number(nm), width=WIDTH)),
        "tescan": (".hdr", TESCAN.format(size=number(nm * 1e-9))),
        "epu": (".xml", EPU.replace("'utf-8'", f"'{encoding}'").format(size=f"{nm * 1e-9:.9E}", width=WIDTH, mode="-")),
        "mdoc": (".tif.mdoc", f"[ZValue = 0]\nPixelSpacing = {nm * 10:.9g}\n"),
    }[vendor]
    write_image(tmp_path / "a.tif")
    path = tmp_path / f"a{suffix.upper() if is_upper else suffix}"
    path.write_bytes(text.encode(encoding))
    try:
        header = read_header(tmp_path / "a.tif")
    finally:
        path.unlink()
    assert header.nm_per_pixel == pytest.approx(nm, rel=1e-7)
    assert header.pixel_size_problem is None
