"""Texts, keys and values, and XML as microscopes write them beside and into images."""

import pytest

from emqa_dask.archive.metadata.texts import decode_text, get_value, parse_key_values
from emqa_dask.archive.metadata.xml_text import find_elements, find_text, get_attribute, parse_xml


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252", "latin-1"])
def test_encodings_of_a_marker(encoding):
    text = "$CM_FORMAT JEOL/EO\r\n$$SM_MICRON_MARKER 1µm\r\n"
    assert decode_text(text.encode(encoding)) == text


def test_shift_jis():
    text = "$CM_TITLE 試料の写真です。倍率と加速電圧を記録した\r\n$CM_MAG 5000\r\n" * 4
    assert decode_text(text.encode("shift-jis")) == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("$CM_TITLE 試料\r\n$$SM_MICRON_MARKER 1μm\r\n", "cp932"),
        ("Comment=样品表面形貌图像\r\nMarker=1μm\r\n", "gb18030"),
        ("Probe=Größe\r\nPixelgröße=5 µm\r\n", "cp1252"),
    ],
)
def test_few_characters_of_other_languages(text, encoding):
    assert decode_text(text.encode(encoding)) == text


def test_keys_and_values():
    values = parse_key_values(
        "[SEM]\r\nHV=5000.0\nPixelSizeX = 2e-09\n$CM_MAG 5000\nPath: C:\\data\nempty=\n[Other]\nHV=1"
    )
    assert values == {
        "sem.hv": "5000.0", "sem.pixelsizex": "2e-09", "sem.cm_mag": "5000", "sem.path": "C:\\data", "other.hv": "1",
    }  # fmt: skip
    assert get_value(values, "PixelSizeX") == "2e-09"
    assert get_value(values, "other.HV") == "1"
    assert get_value(values, "absent", "CM_MAG") == "5000"
    assert get_value(values, "absent") is None


def test_xml_with_namespace_entities_and_quotes():
    root = parse_xml("<?xml version='1.0' encoding='UTF-16'?><a:OME xmlns:a='u'><a:Pixels Unit='&#181;m' SizeX=\"3\"/>")
    pixels = next(find_elements(root, "pixels"))
    assert get_attribute(pixels, "unit") == "µm"
    assert get_attribute(pixels, "absent", "sizex") == "3"
    assert find_text(parse_xml("noise<a><b> 5 </b><c/>"), "c", "b") == "5"


def test_xml_opens_no_file(tmp_path):
    (tmp_path / "secret").write_text("secret")
    root = parse_xml(f'<!DOCTYPE a [<!ENTITY x SYSTEM "file://{tmp_path}/secret">]><a><b>&x;</b></a>')
    assert "secret" not in (find_text(root, "b") or "")


@pytest.mark.parametrize("text", ["", "no element", b"\xff\x00", "<"])
def test_what_is_no_xml_is_none(text):
    assert parse_xml(text) is None
