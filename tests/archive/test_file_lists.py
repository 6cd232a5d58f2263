"""Lists of files as Windows, spreadsheets and file managers write them name the files that they mean."""

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emqa_dask.archive.file_lists import list_name_variants
from emqa_dask.archive.scan import scan_archive

NAMES = ("a.tif", "with space.tif", "sub/b.tif", "grün µ.tif", "#1.tif", "quote'd.tif")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def list_uris(folder: Path, data: bytes, name: str = "list.txt") -> list[str]:
    (folder / name).write_bytes(data)
    entries = list(scan_archive(folder / name))
    assert not [entry for entry in entries if entry.problem]
    assert [Path(entry.path).read_bytes().decode() for entry in entries] == [entry.uri for entry in entries]
    return [entry.uri for entry in entries]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_list_is_read_in_every_encoding(folder, encoding, line_end):
    assert list_uris(folder, line_end.join((*NAMES, "")).encode(encoding)) == list(NAMES)


def test_big_endian_list_with_mark(folder):
    assert list_uris(folder, b"\xfe\xff" + "a.tif\r\nsub/b.tif".encode("utf-16-be")) == ["a.tif", "sub/b.tif"]


@pytest.mark.parametrize(
    "line",
    [
        '"with space.tif"', "'with space.tif'", '"with space.tif" ', "\twith space.tif\t", "  with space.tif",
        '" with space.tif "', "./with space.tif", "sub/../with space.tif", "sub\\..\\with space.tif",
        '"sub\\..\\with space.tif"', "with space.tif\tgood", "\u201cwith space.tif\u201d", "file:with%20space.tif",
    ],
)  # fmt: skip
def test_quotes_spaces_and_backslashes_around_a_name(folder, line):
    assert list_uris(folder, f"{line}\r\n".encode()) == ["with space.tif"]


@pytest.mark.parametrize("start", ["file://", "file:", "FILE://localhost"])
def test_file_uris(folder, start):
    uri = (folder / "grün µ.tif").as_uri().removeprefix("file://")
    assert list_uris(folder, f"{start}{uri}\n".encode()) == ["grün µ.tif"]


def test_names_count_as_they_are_where_they_exist(folder):
    names = ['"a.tif"', " a.tif ", "sub\\b.tif", "# a.tif", "file:a.tif", "a.tif\tgood"]
    for name in names:
        (folder / name).write_bytes(name.encode())
    assert list_uris(folder, "\n".join(names).encode()) == names


def test_lists_of_old_systems(folder):
    assert list_uris(folder, b"a.tif\rwith space.tif\r") == ["a.tif", "with space.tif"]
    assert list_uris(folder, b"a.tif\r\n\x1a") == ["a.tif"]
    assert list_uris(folder, b'"a.tif",\n"with space.tif";\n') == ["a.tif", "with space.tif"]


def test_comments_and_empty_lines_name_no_file(folder):
    assert list_uris(folder, b"# my best images\n\n   \n#1.tif\n  # more\na.tif\n") == ["#1.tif", "a.tif"]


def test_a_missing_file_has_its_plain_name(folder):
    (folder / "list.txt").write_text(' "gone.tif" \r\nsub\\gone.tif\ns3://bucket/gone.tif\n')
    entries = list(scan_archive(folder / "list.txt"))
    assert [entry.uri for entry in entries] == ["gone.tif", "sub\\gone.tif", "s3:/bucket/gone.tif"]
    assert all("there is no such file" in entry.problem for entry in entries)
    assert [("bucket" in entry.problem) for entry in entries] == [False, False, True]


def test_accents_and_code_pages(folder):
    decomposed = unicodedata.normalize("NFD", "grün µ.tif")
    assert list_uris(folder, decomposed.encode()) == ["grün µ.tif"]
    assert list_uris(folder, "grün µ.tif\r\n".encode("cp1252")) == ["grün µ.tif"]


def test_names_that_are_not_utf8(tmp_path):
    with open(os.fsencode(tmp_path) + b"/raw\xff\xe9.tif", "wb") as file:
        file.write(b"1")
    for line in (
        b"raw\xff\xe9.tif\n",
        b'"raw\xff\xe9.tif"\r\n',
        b"file://" + os.fsencode(tmp_path) + b"/raw%FF%E9.tif",
    ):
        (tmp_path / "list.txt").write_bytes(line)
        (entry,) = scan_archive(tmp_path / "list.txt")
        assert (entry.uri, entry.problem, entry.size_bytes) == (r"raw\xff\xe9.tif", "", 1)


@pytest.mark.parametrize(
    "text",
    [
        "path,label\r\na.tif,good\r\n\"with space.tif\",bad\r\n", "File Name;nm\r\na.tif;0,5\r\nwith space.tif;1\r\n",
        "id,Path\n1,a.tif\n2,with space.tif\n3\n", "a.tif\tgood\nwith space.tif\tbad\n", "a.tif\nwith space.tif\n",
        "\ufeffpath\na.tif\n\n,\n./with space.tif,x\n",
    ],
)  # fmt: skip
def test_column_of_files_in_a_table(folder, text):
    assert list_uris(folder, text.encode(), "list.csv") == ["a.tif", "with space.tif"]
    assert list_uris(folder, text.removeprefix("\ufeff").encode("utf-16"), "LIST.CSV") == ["a.tif", "with space.tif"]


@pytest.mark.parametrize("name", ["C:\\data\\a b.tif", '"c:/data/a b.tif"', "file:///C:/data/a%20b.tif"])
def test_drives_of_windows_are_where_wsl_mounts_them(name):
    assert "/mnt/c/data/a b.tif" in list_name_variants(name)


@given(st.text(min_size=1).filter(str.strip) | st.binary(min_size=1).map(os.fsdecode).filter(str.strip))
def test_every_text_has_readings_without_zeros(name):
    for variant in list_name_variants(name):
        assert variant
        assert "\0" not in variant


@given(st.binary(max_size=300).filter(lambda data: not set(data) & set(b"/\\.%")))  # folders elsewhere are large
def test_any_bytes_are_a_list(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("lists")
    for name in ("list.txt", "list.csv"):
        (folder / name).write_bytes(data)
        try:
            for entry in scan_archive(folder / name):
                entry.uri.encode("utf-8")
        except ValueError:  # no name in it
            pass
