"""OME-TIFF: every page has the pixel size and conditions of its own image, wherever the OME-XML stands."""

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from emqa_dask.archive.readers import open_source

NAMESPACE = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
SHAPE = (32, 40)


def make_image(number: int, size: str, tiff_data: str = "", inside: str = "", **attributes) -> str:
    """An Image with one plane, or with those of SizeZ, SizeC and SizeT in `attributes`."""
    values = {"SizeX": SHAPE[1], "SizeY": SHAPE[0], "SizeZ": 1, "SizeC": 1, "SizeT": 1, "Type": "uint8"}
    values |= {"DimensionOrder": "XYZCT"} | attributes
    text = " ".join(f'{key}="{value}"' for key, value in values.items())
    pixels = f'<Pixels ID="Pixels:{number}" {text} {size}>{tiff_data}'
    body, _, planes = inside.partition("|")
    return f'<Image ID="Image:{number}">{body}{pixels}{planes}</Pixels></Image>'


def make_xml(*images: str, uuid: str = "", before: str = "") -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{NAMESPACE}"{uuid}>{before}{"".join(images)}</OME>'


def write_pages(path: Path, xml: str, n_pages: int = 1, shape=SHAPE) -> Path:
    with tifffile.TiffWriter(path) as writer:
        for page in range(n_pages):
            description = xml.encode() if page == 0 else None
            writer.write(np.zeros(shape, np.uint8), description=description, metadata=None, photometric="minisblack")
    return path


def read_headers(path: Path):
    return [frame.header for frame in open_source(path).frames]


def read_sizes(path: Path) -> list[float]:
    return [header.nm_per_pixel for header in read_headers(path)]


def size_of(nm: float, unit: str = "nm") -> str:
    return f'PhysicalSizeX="{nm}" PhysicalSizeXUnit="{unit}" PhysicalSizeY="{nm}" PhysicalSizeYUnit="{unit}"'


def test_pages_belong_to_the_images_that_name_them(tmp_path):
    images = [make_image(0, size_of(2), '<TiffData IFD="2"/>'), make_image(1, size_of(5), '<TiffData IFD="0"/>')]
    images.append(make_image(2, size_of(7), '<TiffData IFD="1" PlaneCount="1"/>'))
    assert read_sizes(write_pages(tmp_path / "a.ome.tif", make_xml(*images), 3)) == pytest.approx([5, 7, 2])


def test_images_without_page_numbers_follow_one_another(tmp_path):
    images = [make_image(0, size_of(2), "<TiffData/>", SizeZ=2), make_image(1, size_of(5), SizeT=3)]
    assert read_sizes(write_pages(tmp_path / "a.ome.tif", make_xml(*images), 5)) == pytest.approx([2, 2, 5, 5, 5])


def test_planes_by_count(tmp_path):
    images = [make_image(0, size_of(2), '<TiffData IFD="0" PlaneCount="2"/>', SizeZ=2)]
    images.append(make_image(1, size_of(5), '<TiffData IFD="2" PlaneCount="1000000000"/>', SizeZ=2))
    assert read_sizes(write_pages(tmp_path / "a.ome.tif", make_xml(*images), 4)) == pytest.approx([2, 2, 5, 5])


@pytest.mark.parametrize(
    ("size", "nm"),
    [
        ('PhysicalSizeX="0.002"', 2.0),
        ('PhysicalSizeX="0.002" PhysicalSizeXUnit="&#181;m"', 2.0),
        ('PhysicalSizeX="0.002" PhysicalSizeXUnit="&#xB5;m"', 2.0),
        ("PhysicalSizeX='0.002' PhysicalSizeXUnit='µm'", 2.0),
        ('PhysicalSizeX="0.002" PhysicalSizeXUnit="μm"', 2.0),
        ('PhysicalSizeX = "2" PhysicalSizeXUnit = "nm"', 2.0),
        ('PhysicalSizeX="2000" PhysicalSizeXUnit="pm"', 2.0),
        ('PhysicalSizeX="20" PhysicalSizeXUnit="Å"', 2.0),
        ('PhysicalSizeX="2e-9" PhysicalSizeXUnit="m"', 2.0),
        ('PhysicalSizeX="2.0E-6" PhysicalSizeXUnit="mm"', 2.0),
        ('PhysicalSizeX="7.874015748e-8" PhysicalSizeXUnit="in"', 2.0),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="reference frame"', math.nan),
        ('PhysicalSizeX="2" PhysicalSizeXUnit="pixel"', math.nan),
        ('PhysicalSizeX="0"', math.nan),
        ("", math.nan),
    ],
)
def test_units_and_notations(tmp_path, size, nm):
    header = read_headers(write_pages(tmp_path / "a.ome.tif", make_xml(make_image(0, size))))[0]
    assert header.nm_per_pixel == pytest.approx(nm, nan_ok=True)
    assert header.pixel_size_problem is None


def test_pixels_that_are_not_square(tmp_path):
    size = 'PhysicalSizeX="2" PhysicalSizeXUnit="nm" PhysicalSizeY="0.004" PhysicalSizeYUnit="µm"'
    header = read_headers(write_pages(tmp_path / "a.ome.tif", make_xml(make_image(0, size))))[0]
    assert (header.nm_per_pixel, header.nm_per_pixel_y) == pytest.approx((2.0, 4.0))


def test_prefixed_namespace_and_comment_at_the_end(tmp_path):
    xml = make_xml(make_image(0, size_of(3))).replace("<", "<ome:").replace("<ome:/", "</ome:").replace("<ome:?", "<?")
    xml = xml.replace("xmlns=", "xmlns:ome=") + "<!-- written by a program -->"
    assert read_sizes(write_pages(tmp_path / "a.tif", xml)) == pytest.approx([3.0])


def test_conditions_of_each_plane(tmp_path):
    instrument = """<Instrument ID="Instrument:0"><Microscope Model="Titan"/><Detector ID="Detector:0" Model="CMOS"/>
<Detector ID="Detector:1" Model="HAADF"/><Objective ID="Objective:0" NominalMagnification="20000"/></Instrument>"""
    inside = """<AcquisitionDate>2019-12-05T13:02:03</AcquisitionDate><ObjectiveSettings ID="Objective:0"/>|
<Channel ID="Channel:0"><DetectorSettings ID="Detector:1"/></Channel>
<Plane TheZ="1" TheC="0" TheT="0" ExposureTime="250" ExposureTimeUnit="ms" PositionX="-1.5" PositionXUnit="mm"
 PositionY="3" PositionYUnit="µm" PositionZ="7" PositionZUnit="reference frame"/>
<Plane TheZ="0" TheC="0" TheT="0" ExposureTime="1.5" PositionX="0" PositionXUnit="mm"/>"""
    xml = make_xml(make_image(0, size_of(2), "<TiffData/>", inside, SizeZ=2), before=instrument)
    first, second = read_headers(write_pages(tmp_path / "a.ome.tif", xml, 2))
    assert (first.magnification, first.instrument, first.detector) == (20000.0, "Titan", "HAADF")
    assert first.acquired == "2019-12-05T13:02:03"
    assert (first.exposure_s, second.exposure_s) == (1.5, 0.25)
    assert (first.stage_x_um, second.stage_x_um, second.stage_y_um) == pytest.approx((0.0, -1500.0, 3.0))
    assert math.isnan(second.stage_z_um)


def name_file(name: str, uuid: int) -> str:
    return f'<TiffData IFD="0"><UUID FileName="{name}">urn:uuid:{uuid}</UUID></TiffData>'


def test_companion_file(tmp_path):
    images = [
        make_image(0, size_of(2), name_file("a.ome.tif", 0)),
        make_image(1, size_of(5), name_file("b.ome.tif", 1)),
    ]
    (tmp_path / "set.companion.ome").write_text(make_xml(*images, uuid=' UUID="urn:uuid:9"'), encoding="utf-8")
    for k, name in enumerate("ab"):
        reference = f'<BinaryOnly MetadataFile="set.companion.ome" UUID="urn:uuid:{k}"/>'
        write_pages(tmp_path / f"{name}.ome.tif", make_xml(reference))
    assert [read_sizes(tmp_path / f"{name}.ome.tif")[0] for name in "ab"] == pytest.approx([2, 5])
    (tmp_path / "b.ome.tif").rename(tmp_path / "renamed.tif")
    assert read_sizes(tmp_path / "renamed.tif") == pytest.approx([5])


@pytest.mark.parametrize(
    "name", ["lost.companion.ome", "../lost.companion.ome", "/etc/passwd", "C:\\lost.ome", "", ".."]
)
def test_companion_that_is_not_there(tmp_path, name):
    path = write_pages(tmp_path / "a.ome.tif", make_xml(f'<BinaryOnly MetadataFile="{name}" UUID="urn:uuid:1"/>'))
    header = read_headers(path)[0]
    assert math.isnan(header.nm_per_pixel)
    assert "which is not beside the file" in header.pixel_size_problem


def test_set_of_files(tmp_path):
    def make_set(own: int) -> str:
        images = [make_image(k, size_of(k + 2), name_file(f"{k}.ome.tif", k)) for k in range(3)]
        return make_xml(*images, uuid=f' UUID="urn:uuid:{own}"')

    for k in range(3):
        assert read_sizes(write_pages(tmp_path / f"{k}.ome.tif", make_set(k))) == pytest.approx([k + 2])
    assert read_sizes(write_pages(tmp_path / "other name.tif", make_set(1))) == pytest.approx([3])


def test_page_of_unknown_image_has_no_size(tmp_path):
    images = [
        make_image(k, size_of(k + 2), f'<TiffData><UUID FileName="{k}.tif">urn:uuid:{k}</UUID></TiffData>')
        for k in range(2)
    ]
    header = read_headers(write_pages(tmp_path / "a.tif", make_xml(*images)))[0]
    assert math.isnan(header.nm_per_pixel)
    assert header.pixel_size_problem == "the OME-XML does not say which of its images this page is"


def test_cropped_image_is_named(tmp_path):
    xml = make_xml(make_image(0, size_of(2), SizeX=80))
    header = read_headers(write_pages(tmp_path / "a.ome.tif", xml))[0]
    assert "80 px wide and this one has 40" in header.pixel_size_problem


def test_file_of_tifffile(tmp_path):
    metadata = {
        "axes": "ZYX",
        "PhysicalSizeX": 0.5,
        "PhysicalSizeXUnit": "nm",
        "PhysicalSizeY": 1.5,
        "PhysicalSizeYUnit": "nm",
    }
    tifffile.imwrite(tmp_path / "a.ome.tif", np.zeros((3, *SHAPE), np.uint16), metadata=metadata)
    headers = read_headers(tmp_path / "a.ome.tif")
    assert [(header.nm_per_pixel, header.nm_per_pixel_y) for header in headers] == [(0.5, 1.5)] * 3


@pytest.mark.parametrize("cut", [30, 120, 300, 420])
def test_broken_xml_does_not_cost_the_pixels(tmp_path, cut):
    xml = make_xml(make_image(0, size_of(2)))
    assert len(read_headers(write_pages(tmp_path / "a.ome.tif", xml[:-cut]))) == 1


@settings(max_examples=60, deadline=None)
@given(
    nm=st.lists(st.floats(-2, 4).map(lambda power: 10**power), min_size=1, max_size=4),
    order=st.permutations(range(4)),
    unit=st.sampled_from([("nm", 1.0), ("µm", 1e-3), ("pm", 1e3), ("Å", 10.0), ("m", 1e-9)]),
)
def test_sizes_of_all_images_come_back(nm, order, unit):
    pages = [page for page in order if page < len(nm)]
    images = [
        make_image(k, size_of(value * unit[1], unit[0]), f'<TiffData IFD="{page}"/>')
        for k, (value, page) in enumerate(zip(nm, pages))
    ]
    with tempfile.TemporaryDirectory() as folder:
        sizes = read_sizes(write_pages(Path(folder) / "a.ome.tif", make_xml(*images), len(nm)))
    assert [sizes[page] for page in pages] == pytest.approx(nm)
