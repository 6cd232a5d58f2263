"""What programs of microscopes write into TIFF tags comes back: pixel sizes, conditions, stage, dates and dose."""

import math
import struct
import tempfile
import zipfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import rsciio.tiff
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vendor_tiffs import SHAPE, WRITERS, Conditions, write_fei, write_image, write_tvips, write_zeiss

from emqa_dask.archive.readers import open_source
from emqa_dask.archive.source import ReadError

CHARGE_C = 1.602176634e-19
DATES = st.datetimes(datetime(1990, 1, 1), datetime(2068, 12, 31)).map(lambda date: date.replace(microsecond=0))
CONDITIONS = st.builds(
    Conditions,
    nm=st.floats(-2, 4).map(lambda power: float(f"{10**power:.4g}")),
    nm_y=st.floats(-2, 4).map(lambda power: float(f"{10**power:.4g}")),
    voltage_kv=st.floats(1.1, 300).map(lambda kv: round(kv, 2)),
    magnification=st.integers(100, 10**6).map(float),
    acquired=DATES,
    detector=st.sampled_from(["TLD", "ETD", "InLens", "SE2", "BSE"]),
    stage_um=st.tuples(*[st.floats(-5e4, 5e4).map(lambda um: round(um, 2))] * 3),
    tilt_deg=st.floats(-70, 70).map(lambda degrees: round(degrees, 3)),
    exposure_s=st.floats(0.001, 600).map(lambda s: round(s, 4)),
    current_a=st.floats(1, 1e4).map(lambda pa: pa * 1e-12),
    dwell_s=st.floats(50, 1e5).map(lambda ns: ns * 1e-9),
)


def read_header(path):
    """Header of the first image of a file."""
    return open_source(path).frames[0].header


def check_conditions(header, c: Conditions, parts: tuple[str, ...]) -> None:
    """The header has these parts of the conditions."""
    assert header.nm_per_pixel == pytest.approx(c.nm, rel=1e-5)
    assert header.nm_per_pixel_y == pytest.approx(c.nm_y if "nm_y" in parts else c.nm, rel=1e-5)
    for name in ("voltage_kv", "magnification", "exposure_s"):
        if name in parts:
            assert getattr(header, name) == pytest.approx(getattr(c, name), rel=1e-5), name
    if "acquired" in parts:
        assert header.acquired[:19] == c.acquired.isoformat()
    if "detector" in parts:
        assert header.detector == c.detector
    if "tilt_deg" in parts:
        assert header.tilt_deg == pytest.approx(c.tilt_deg, abs=1e-4)
    if "stage_um" in parts:
        stage_um = (header.stage_x_um, header.stage_y_um, header.stage_z_um)
        assert stage_um == pytest.approx(c.stage_um, rel=1e-5, abs=1e-6)
    if "dose" in parts:
        nm_y = c.nm_y if "nm_y" in parts else c.nm
        dose = c.current_a * c.dwell_s / CHARGE_C / (c.nm * nm_y)
        assert header.dose_e_per_nm2 == pytest.approx(dose, rel=1e-4)


@pytest.mark.parametrize("vendor", WRITERS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conditions=CONDITIONS)
def test_vendor_metadata_come_back(vendor, conditions):
    write, parts = WRITERS[vendor]
    with tempfile.TemporaryDirectory() as folder:
        header = read_header(write(Path(folder) / "image.tif", conditions))
    check_conditions(header, conditions, parts)
    assert header.pixel_size_problem is None
    assert header.nm_per_pixel_source == "header"


@pytest.mark.parametrize("vendor", ["fei", "zeiss", "tvips", "olympus", "sightx"])
def test_pixel_sizes_equal_those_of_rosettasciio(tmp_path, vendor):
    path = WRITERS[vendor][0](tmp_path / "image.tif", Conditions())
    nm_per_unit = {"m": 1e9, "nm": 1.0, "µm": 1e3}
    axes = rsciio.tiff.file_reader(path)[0]["axes"]
    scales = sorted(axis["scale"] * nm_per_unit[axis["units"]] for axis in axes)
    header = read_header(path)
    assert [header.nm_per_pixel, header.nm_per_pixel_y] == pytest.approx(scales)


def test_real_files_equal_rosettasciio(real, tmp_path):
    folder = real / "formats_rsciio" / "tiff"
    with zipfile.ZipFile(folder / "tiff_FEI_Helios.zip") as archive:
        archive.extractall(tmp_path)
    paths = [folder / "olympus_SIS.tif", folder / "test_loading_image_saved_with_DM.tif"]
    paths += [tmp_path / "FEI-Helios-Ebeam-8bits.tif", tmp_path / "FEI-Helios-Ebeam-16bits.tif"]
    for path, nm in zip(paths, (0.023928, 168.67469251155853, 3372.4, 3372.4)):
        axes = rsciio.tiff.file_reader(path)[-1]["axes"]
        scales = [axis["scale"] * {"m": 1e9, "µm": 1e3}[axis["units"]] for axis in axes]
        header = read_header(path)
        assert [header.nm_per_pixel, header.nm_per_pixel_y] == pytest.approx(scales)
        assert header.nm_per_pixel == pytest.approx(nm)
        assert header.pixel_size_problem is None
    assert (header.stage_x_um, header.stage_y_um, header.stage_z_um) == pytest.approx((25.76, -194.177, 7965.0))
    assert (header.detector, header.acquired) == ("ETD", "2016-06-13T17:06:40")
    assert header.magnification == pytest.approx(120, rel=1e-5)
    assert header.dose_e_per_nm2 == pytest.approx(6.25e-12 * 1e-5 / CHARGE_C / 3372.4**2)


def test_fei_field_width_alone(tmp_path):
    text = "[System]\r\nType=SEM\r\n[%s]\r\n%s=1.28e-07\r\n[Image]\r\nResolutionX=64\r\nResolutionY=48\r\n"
    for section, key in (("Scan", "HorFieldsize"), ("EScan", "HorFieldsize"), ("EBeam", "HFW"), ("IBeam", "HFW")):
        header = read_header(write_image(tmp_path / f"{section}.tif", [(34682, text % (section, key))]))
        assert header.nm_per_pixel == pytest.approx(2.0), section


def test_fei_beam_in_use_counts(tmp_path):
    text = "[Beam]\r\nBeam=IBeam\r\nScan=IScan\r\n[EBeam]\r\nHFW=1e-3\r\n[IBeam]\r\nHFW=1.28e-07\r\nHV=30000\r\n"
    text += "BeamCurrent=1e-9\r\n[EScan]\r\nPixelWidth=1e-6\r\n[IScan]\r\nPixelWidth=2e-9\r\n"
    text += "PixelHeight=3e-9\r\nDwell=1e-6\r\n"
    header = read_header(write_image(tmp_path / "x.tif", [(34682, text)]))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 3.0))
    assert (header.voltage_kv, header.pixel_size_problem) == (30.0, None)
    assert math.isnan(header.dose_e_per_nm2)


@pytest.mark.parametrize(
    ("date", "creation", "acquired"),
    [
        ("03/04/2019", "04.03.2019 13:02:03", "2019-03-04"),
        ("03/04/2019", "03.04.2019 13:02:03", "2019-04-03"),
        ("03/04/2019", "", "2019-03-04"),
        ("03.04.2019", "", "2019-04-03"),
        ("25/04/2019", "", "2019-04-25"),
        ("2019-04-03", "", "2019-04-03"),
    ],
)
def test_fei_dates_in_regional_forms(tmp_path, date, creation, acquired):
    text = f"[User]\r\nDate={date}\r\nTime=01:02:03 PM\r\n[PrivateFei]\r\nTimeOfCreation={creation}\r\n"
    assert read_header(write_image(tmp_path / "x.tif", [(34682, text)])).acquired == f"{acquired}T13:02:03"


@pytest.mark.parametrize("vendor", ["fei", "zeiss", "fibics", "orion", "tvips"])
def test_cropped_image_is_named(tmp_path, vendor):
    path = WRITERS[vendor][0](tmp_path / "image.tif", Conditions())
    with tifffile.TiffFile(path) as tif:
        tag = next(tag for tag in tif.pages.first.tags.values() if tag.code > 34000)
        tif.filehandle.seek(tag.valueoffset)
        data = tif.filehandle.read(tag.valuebytecount)
    write_image(tmp_path / "part.tif", [(tag.code, data)], (24, 32))
    header = read_header(tmp_path / "part.tif")
    assert header.nm_per_pixel == pytest.approx(2.5)
    assert "64 px wide and this one has 32" in header.pixel_size_problem


def test_cropped_zeiss_without_store_resolution_is_in_conflict(tmp_path):
    lines = [*["0"] * 3, "2e-9", *["0"] * 5, "AP_IMAGE_PIXEL_SIZE", "Image Pixel Size = 2 nm"]
    header = read_header(write_image(tmp_path / "x.tif", [(34118, "\r\n".join(lines) + "\r\n")], (8, 512)))
    assert header.nm_per_pixel == 2.0
    assert "AP_IMAGE_PIXEL_SIZE states 2 nm" in header.pixel_size_problem


@pytest.mark.parametrize("columns", [512, 1024, 2048, 3072])
def test_zeiss_at_every_store_resolution(tmp_path, columns):
    lines = [*["0"] * 3, "3e-9", *["0"] * 5, "AP_PIXEL_SIZE", "Pixel Size = 3 nm"]
    lines += ["DP_IMAGE_STORE", f"Store resolution = {columns} * {columns * 3 // 4}"]
    header = read_header(write_image(tmp_path / "x.tif", [(34118, "\r\n".join(lines) + "\r\n")], (8, columns)))
    assert header.nm_per_pixel == pytest.approx(3.0 * 1024 / columns)
    assert header.pixel_size_problem is None


@pytest.mark.parametrize(
    ("size", "nm"), [("558.2 pm", 0.5582), ("2,48 nm", 2.48), ("1.25 µm", 1250.0), ("12.5 um", 12500.0)]
)
def test_zeiss_units_and_decimal_comma(tmp_path, size, nm):
    text = f"AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {size}\r\nAP_ACTUALKV\r\nEHT = 500 V\r\n".encode("cp1252")
    header = read_header(write_image(tmp_path / "x.tif", [(34118, text)]))
    assert (header.nm_per_pixel, header.voltage_kv) == (pytest.approx(nm), 0.5)


def test_thermo_unit_prefix_is_read_and_named(tmp_path):
    text = '<Metadata><PixelSize><X unit="m" unitPrefixPower="%s">%s</X></PixelSize></Metadata>'
    header = read_header(write_image(tmp_path / "power.tif", [(34683, text % (-9, 0.5))]))
    assert header.nm_per_pixel == pytest.approx(0.5)
    assert "unitPrefixPower" in header.pixel_size_problem
    header = read_header(write_image(tmp_path / "absurd.tif", [(34683, text % (1, 0.5))]))
    assert math.isnan(header.nm_per_pixel)
    assert "which no microscope has" in header.pixel_size_problem


def test_phenom_xml(tmp_path):
    text = '<?xml version="1.0"?><FeiImage><pixelWidth unit="um">0.694952</pixelWidth><pixelHeight unit="um">0.694952'
    text += "</pixelHeight><instrument><edition>G4 Phenom ProX</edition></instrument></FeiImage>"
    header = read_header(write_image(tmp_path / "x.tif", [(34683, text)]))
    assert (header.nm_per_pixel, header.instrument) == (pytest.approx(694.952), "G4 Phenom ProX")


def test_tecnai_labels(tmp_path):
    data = {"Microscope": ("Tecnai", ""), "High tension": ("200", "kV"), "Magnification": ("29000", "x"),
            "Stage X": ("-12.5", "um"), "Stage A": ("15", "deg"),
            "Mode": ("STEM nP SA Zoom Diffraction", "")}  # fmt: skip
    items = "".join(f"<Data><Label>{k}</Label><Value>{v}</Value><Unit>{u}</Unit></Data>" for k, (v, u) in data.items())
    header = read_header(write_image(tmp_path / "x.tif", [(34682, ""), (34683, f"<Root>{items}</Root>")]))
    assert (header.voltage_kv, header.magnification, header.instrument) == (200.0, 29000.0, "Tecnai")
    assert (header.stage_x_um, header.tilt_deg) == (-12.5, 15.0)


def test_memento_pixel_size(tmp_path):
    part = "<MementoItem><Name>%s</Name><MementoItemUnit>MementoItemUnitMeter</MementoItemUnit><anyType>%s</anyType>"
    part += "</MementoItem>"
    inner = part % ("Width", "1.6E-08") + part % ("Height", "1.7E-08")
    text = f"<MementoItem><Name>PixelSize</Name><MementoItemSection>{inner}</MementoItemSection></MementoItem>"
    header = read_header(write_image(tmp_path / "x.tif", [(34682, text)]))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((16.0, 17.0))


def test_tescan_text_without_blocks(tmp_path):
    text = "Description\r\n[MAIN]\r\nDevice=MIRA3\r\nPixelSizeX=2e-09\r\nPixelSizeY=3e-09\r\n[SEM]\r\nHV=5000.0\r\n"
    text = "\0" * 8 + text
    header = read_header(write_image(tmp_path / "x.tif", [(50431, text.encode())]))
    assert (header.nm_per_pixel, header.nm_per_pixel_y, header.voltage_kv) == (pytest.approx(2), pytest.approx(3), 5.0)


def test_sizes_of_two_vendors_in_conflict(tmp_path):
    fibics = "<Fibics><Scan><Ux>0.004</Ux><Vy>0.004</Vy></Scan></Fibics>"
    zeiss = b"AP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2 nm\r\n"
    header = read_header(write_image(tmp_path / "x.tif", [(51023, fibics), (34118, zeiss)]))
    assert header.nm_per_pixel == pytest.approx(4.0)
    assert header.pixel_size_problem == "Scan.Ux states 4 nm per pixel, AP_IMAGE_PIXEL_SIZE 2 nm"


def test_file_of_hyperspy_has_the_exact_scale(tmp_path):
    axes = [{"name": n, "scale": 1.0334e-8, "offset": 0.0, "units": "m", "size": 32, "navigate": False} for n in "yx"]
    signal = {"data": np.zeros((32, 32), np.uint8), "axes": axes, "metadata": {"General": {}, "Signal": {}}}
    rsciio.tiff.file_writer(tmp_path / "x.tif", signal)
    header = read_header(tmp_path / "x.tif")
    assert (header.nm_per_pixel, header.pixel_size_problem) == (pytest.approx(10.334), None)


def test_format_names_the_writer(tmp_path):
    names = {
        vendor: open_source(write(tmp_path / "x.tif", Conditions())).format for vendor, (write, _) in WRITERS.items()
    }
    assert names == {
        "fei": "FEI TIFF", "thermo_xml": "FEI TIFF", "zeiss": "Zeiss TIFF", "fibics": "Fibics TIFF",
        "orion": "Zeiss Orion TIFF", "tescan": "Tescan TIFF", "tvips": "TVIPS TIFF", "olympus": "Olympus SIS TIFF",
        "sightx": "JEOL TIFF", "analysis_station": "JEOL TIFF", "digitalmicrograph": "DigitalMicrograph TIFF",
        "imagej": "ImageJ TIFF", "amt": "AMT TIFF", "point_electronic": "TIFF",
    }  # fmt: skip


def test_eer_metadata(tmp_path):
    items = {"sensorPixelSize.width": ("7.65e-11", "m"), "sensorPixelSize.height": ("7.65e-11", "m"),
             "exposureTime": ("4.5", "s"), "totalDose": ("23.4", "e/pixel"),
             "commercialName": ("Falcon 4i", "")}  # fmt: skip
    text = "".join(f'<item name="{name}" unit="{unit}">{value}</item>' for name, (value, unit) in items.items())
    header = read_header(write_image(tmp_path / "x.tif", [(65001, f"<metadata>{text}</metadata>".encode())]))
    assert (header.nm_per_pixel, header.exposure_s, header.detector) == (pytest.approx(0.0765), 4.5, "Falcon 4i")
    assert header.dose_e_per_nm2 == pytest.approx(23.4 / 0.0765**2)
    text = text.replace("7.65e-11", "1.4e-5")
    header = read_header(write_image(tmp_path / "x.tif", [(65001, f"<metadata>{text}</metadata>".encode())]))
    assert math.isnan(header.nm_per_pixel)


def test_fei_digital_zoom_is_named(tmp_path):
    text = "[Scan]\r\nPixelWidth=2e-9\r\n[Image]\r\nZoomFactor=%s\r\n"
    zoomed = read_header(write_image(tmp_path / "a.tif", [(34682, text % 2)]))
    assert zoomed.pixel_size_problem == "the image was saved with a digital zoom of 2"
    assert read_header(write_image(tmp_path / "b.tif", [(34682, text % "1.0")])).pixel_size_problem is None


@pytest.mark.parametrize("kind", [1, 2, 7])  # BYTE, ASCII, UNDEFINED
@pytest.mark.parametrize(
    ("tag", "text"),
    [
        (34682, "[User]\r\nUserText=%s\r\n[Scan]\r\nPixelWidth=2e-9\r\n"),
        (34683, '<Metadata><Text>%s</Text><PixelSize><X unit="m">2e-9</X></PixelSize></Metadata>'),
        (34118, "SV_USER_TEXT\r\nUser Text = %s\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 2 nm\r\n"),
        (51023, '<?xml version="1.0"?><Fibics><Text>%s</Text><Scan><Ux>0.002</Ux></Scan></Fibics>'),
    ],
)
def test_texts_of_the_user_in_japanese(tmp_path, kind, tag, text):
    data = (text % "観察テスト").encode("cp932") + b"\0"
    tifffile.imwrite(
        tmp_path / "x.tif", np.zeros(SHAPE, "u1"), extratags=[(tag, kind, len(data), data, True)], metadata=None
    )
    source = open_source(tmp_path / "x.tif")
    assert source.frames[0].header.nm_per_pixel == pytest.approx(2.0)
    assert source.reason == ""


@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_description_in_japanese(tmp_path, encoding):
    text = "<TemReporter2><Comment>観察テスト</Comment><a_LengthPerPixel>2</a_LengthPerPixel></TemReporter2>"
    write_image(tmp_path / "x.tif", description=text.encode(encoding))
    assert read_header(tmp_path / "x.tif").nm_per_pixel == pytest.approx(2.0)


def test_philips_xl_series(tmp_path):
    text = "[DatabarData]\r\nszUserText = a\r\n[Vector]\r\nMagnification = 5000\r\nHighTension = 10000\r\n"
    header = read_header(write_image(tmp_path / "x.tif", [(34680, text)]))
    assert (header.magnification, header.voltage_kv) == (5000.0, 10.0)
    assert math.isnan(header.nm_per_pixel)


def test_sheared_image_is_named(tmp_path):
    text = "<Fibics><Scan><Ux>0.004</Ux><Uy>0</Uy><Vx>0.002</Vx><Vy>0.00346410162</Vy></Scan></Fibics>"
    header = read_header(write_image(tmp_path / "x.tif", [(51023, text)]))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((4.0, 4.0))
    assert header.pixel_size_problem == "rows and columns of the image are at 60 degrees"


@pytest.mark.parametrize(
    ("date", "acquired"), [("13 Okt 2018", "2018-10-13"), ("05.12.2019", "2019-12-05"), ("13 Mrz 2018", "2018-03-13")]
)
def test_zeiss_german_dates(tmp_path, date, acquired):
    text = f"AP_DATE\r\nDate :{date}\r\nAP_TIME\r\nTime :12:18:34\r\n".encode("cp1252")
    assert read_header(write_image(tmp_path / "x.tif", [(34118, text)])).acquired == f"{acquired}T12:18:34"


def test_helium_ions_have_no_electron_dose(tmp_path):
    text = "<Fibics><Image><Beam>HIM</Beam></Image><Scan><Ux>0.004</Ux><Dwell units='ns'>1000</Dwell></Scan>"
    text += "<BeamInfo><item name='BeamI'>1.3</item></BeamInfo></Fibics>"
    assert math.isnan(read_header(write_image(tmp_path / "x.tif", [(51023, text)])).dose_e_per_nm2)


@pytest.mark.parametrize("kind", ["dm", "imagej", "tvips", "sightx", "thermo", "tecnai"])
def test_diffraction_pattern_is_none_of_the_images(tmp_path, kind):
    path = tmp_path / "x.tif"
    if kind == "dm":
        extra = [(65003, 2, 5, b"1/nm\0", True), (65009, 12, 1, 0.05, True)]
        write_image(path)
        tifffile.imwrite(path, tifffile.imread(path), extratags=extra, metadata=None)
    elif kind == "imagej":
        tifffile.imwrite(path, tifffile.imread(write_image(path)), imagej=True, metadata={"unit": "1/nm"})
    elif kind == "tvips":
        write_tvips(path, Conditions(), mode=3)
    elif kind == "sightx":
        write_image(path, description="<TemReporter><ModeString>DIFF</ModeString></TemReporter>")
    elif kind == "thermo":
        write_image(path, [(34683, '<Metadata><PixelSize><X unit="1/m">1e7</X></PixelSize></Metadata>')])
    else:
        write_image(path, [(34683, "<Data><Label>Mode</Label><Value>TEM nP LAD Diffraction</Value></Data>")])
    source = open_source(path)
    assert (source.kind, source.frames) == ("diffraction", ())
    assert "not a micrograph" in source.reason


@pytest.mark.parametrize("dpi", [72, 300, 1200, 2400, 3200, 4000, 4800, 5300, 6400, 8000, 9600, 10160, 12000, 19200])
@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
@pytest.mark.parametrize("imagej", [False, True])
def test_scanned_film_has_no_pixel_size(tmp_path, dpi, unit, imagej):
    scale = dpi if unit == "INCH" else dpi / 2.54
    options = {"imagej": True, "metadata": {"unit": "inch" if unit == "INCH" else "cm"}} if imagej else {}
    header = read_header(write_image(tmp_path / "x.tif", resolution=(scale, scale), resolutionunit=unit, **options))
    assert math.isnan(header.nm_per_pixel)
    assert header.pixel_size_problem is None


def test_resolution_of_a_microscope(tmp_path):
    header = read_header(write_image(tmp_path / "a.tif", resolution=(5e6, 2.5e6), resolutionunit="CENTIMETER"))
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 4.0))
    header = read_header(write_image(tmp_path / "b.tif", resolution=(5e6, 300), resolutionunit="CENTIMETER"))
    assert math.isnan(header.nm_per_pixel)


@pytest.mark.parametrize(
    ("unit", "per_unit", "nm"),
    [("cm", 5e6, 2.0), ("inch", 1.27e7, 2.0), ("mm", 5e5, 2.0), ("nm", 0.5, 2.0), ("\\u00c5", 0.05, 2.0),
     ("Angstrom", 0.05, 2.0), ("micron", 500, 2.0), ("um", 500, 2.0), ("pixel", 0.5, math.nan), ("", 0.5, math.nan)],
)  # fmt: skip
def test_imagej_units(tmp_path, unit, per_unit, nm):
    header = read_header(
        write_image(tmp_path / "x.tif", imagej=True, resolution=(per_unit, per_unit), metadata={"unit": unit})
    )
    assert header.nm_per_pixel == pytest.approx(nm, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "nm"),
    [("Pixel size: 2.5 nm", 2.5), ('{"pixel_size_nm": 2.5}', 2.5), ("PixelSize (nm) = 2,5", 2.5),
     ("pixel spacing = 1.05 Angstrom", 0.105), ("Camera pixel size: 2.5 nm", math.nan),
     ("Pixel size: 15 µm", math.nan), ("pixel size = 0.02 nm^-1", math.nan), ("Pixel size: 1/nm", math.nan)],
)  # fmt: skip
def test_pixel_size_in_words(tmp_path, text, nm):
    header = read_header(write_image(tmp_path / "x.tif", description=text.encode()))
    assert header.nm_per_pixel == pytest.approx(nm, nan_ok=True)


def test_stack_has_the_metadata_of_its_first_page(tmp_path):
    write_fei(tmp_path / "one.tif", Conditions())
    with tifffile.TiffFile(tmp_path / "one.tif") as tif:
        tif.filehandle.seek((tag := tif.pages.first.tags[34682]).valueoffset)
        data = tif.filehandle.read(tag.count)
    with tifffile.TiffWriter(tmp_path / "stack.tif") as writer:
        for k in range(3):
            extra = [(34682, 2, len(data), data, True)] if k == 0 else []
            writer.write(tif_page(), extratags=extra, metadata=None)
    frames = open_source(tmp_path / "stack.tif").frames
    assert [frame.header.nm_per_pixel for frame in frames] == pytest.approx([2.5] * 3)


def tif_page():
    """Pixels of one page of a stack."""
    return np.zeros(SHAPE, np.uint8)


@pytest.mark.parametrize("vendor", WRITERS)
def test_every_cut_and_flip_of_the_tag_is_survived(tmp_path, vendor):
    data = bytearray(WRITERS[vendor][0](tmp_path / "image.tif", Conditions()).read_bytes())
    n_pixels = SHAPE[0] * SHAPE[1]
    for k in range(0, len(data) - n_pixels, max(1, (len(data) - n_pixels) // 40)):
        for name, content in (
            ("cut", data[: len(data) - k]),
            ("flip", data[:k] + bytes([data[k] ^ 0x55]) + data[k + 1 :]),
        ):
            path = tmp_path / f"{name}.tif"
            path.write_bytes(bytes(content))
            try:
                open_source(path)
            except ReadError:
                continue


@pytest.mark.parametrize("offset", [0, 9, 10**6, 2**63 - 1, 2**63, 2**64 - 1])
def test_page_beyond_the_file_is_a_read_error(tmp_path, offset):
    path = tmp_path / "x.tif"
    path.write_bytes(struct.pack("<2sHHHQ", b"II", 43, 8, 0, offset) + bytes(64))
    with pytest.raises(ReadError):
        open_source(path)


@pytest.mark.parametrize("nm", [0.0, -2.5, math.inf, math.nan])
def test_zero_and_negative_sizes(tmp_path, nm):
    header = read_header(write_zeiss(tmp_path / "z.tif", replace(Conditions(), nm=nm)))
    header_fei = read_header(write_fei(tmp_path / "f.tif", replace(Conditions(), nm=nm, nm_y=nm)))
    for nm_per_pixel in (header.nm_per_pixel, header_fei.nm_per_pixel):
        assert math.isnan(nm_per_pixel) or nm_per_pixel == pytest.approx(2.5)
