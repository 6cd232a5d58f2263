"""Laws of an archive in a bucket: every key is a row, whatever it is called; one request lists a thousand keys."""

import collections
import os

import pytest

from emqa_dask.archive.name_escapes import unescape_name
from emqa_dask.archive.scan import scan_archive
from emqa_dask.archive.selection import FileSelection
from emqa_dask.archive.survey import fetch_file, survey_file
from emqa_dask.pipeline.workspace.archive_sources import ArchiveFiles, list_sources, name_sources
from emqa_dask.settings import Archive
from emqa_dask.store import files

pytestmark = pytest.mark.real
KEYS = ["a.tif", "a//b.tif", "a/../b.tif", "../up.tif", "..", "a/..", "//", "x::file:///etc/passwd", "q?a=1#b.tif",
        "[ab]*.tif", "s p/ü µ.tif", "back\\slash.tif", "\\x2e\\x2e/b.tif", "a/./b.tif", "~/home.tif", "/etc/passwd",
        "long" * 100 + ".tif"]  # fmt: skip


def put(bucket: str, key: str, data: bytes) -> None:
    files.locate(bucket)[0].call_s3("put_object", Bucket=bucket[5:], Key=key, Body=data)


def test_every_key_is_an_entry_and_reads_back(healthy):
    bucket, _ = healthy
    for key in KEYS:
        put(bucket, f"archive/{key}", key.encode())
    entries = list(scan_archive(f"{bucket}/archive"))
    assert sorted(unescape_name(e.uri) for e in entries) == sorted(KEYS)
    assert len({e.uri for e in entries}) == len(KEYS)
    for entry in entries:
        name = unescape_name(entry.uri)
        assert not {"", ".", ".."} & set(entry.uri.split("/"))
        if entry.problem:
            assert name.endswith("/")
            continue
        assert entry.size_bytes == len(name.encode())
        with fetch_file(entry.path) as path:
            folder = os.path.dirname(path)
            assert os.listdir(folder) == [os.path.basename(path)]
            with open(path, "rb") as file:
                assert file.read() == name.encode()
        assert not os.path.exists(folder)


def test_a_listing_takes_one_request_per_thousand_keys(healthy):
    bucket, proxy = healthy
    for k in range(30):
        put(bucket, f"{k}/image.tif", b"1")
    for k in range(5):
        put(bucket, f"5/x.zarr/c/{k}", b"1")
    put(bucket, "7/", b"")  # a folder that somebody made by hand
    proxy.requests.clear()
    found = [e.uri for e in scan_archive(bucket)]
    assert found == sorted([f"{k}/image.tif" for k in range(30)] + ["5/x.zarr"])
    assert collections.Counter(r.method for r in proxy.requests) == {"GET": 1}


def test_a_long_listing_has_all_pages_and_no_chunks(healthy, monkeypatch):
    bucket, proxy = healthy
    keys = [f"{k:02d}.tif" for k in range(7)] + [f"05.zarr/c/{k}" for k in range(9)]
    for key in keys:
        put(bucket, key, b"1")
    fs = files.locate(bucket)[0]
    call = fs.call_s3
    monkeypatch.setattr(fs, "call_s3", lambda *names, **options: call(*names, MaxKeys=3, **options))
    proxy.requests.clear()
    assert [e.uri for e in scan_archive(bucket)] == [f"{k:02d}.tif" for k in range(6)] + ["05.zarr", "06.tif"]
    assert len(proxy.requests) == 4


def test_sidecars_on_the_next_page_of_a_listing(healthy, monkeypatch):
    bucket, _ = healthy
    pairs = {
        f"s/{k:02d}.tif": f"s/{k:02d}{suffix}" for k, suffix in enumerate((".txt", "-tif.hdr", ".tif.mdoc", ".XML"))
    }
    for key in (*pairs, *pairs.values(), "t/02.tif.mdoc", "s/04.tif"):
        put(bucket, key, b"1")
    fs = files.locate(bucket)[0]
    call = fs.call_s3
    for n_keys in (1, 2, 3, 1000):
        monkeypatch.setattr(fs, "call_s3", lambda *names, n=n_keys, **options: call(*names, MaxKeys=n, **options))
        sidecars = {e.uri: e.sidecars for e in scan_archive(bucket) if e.uri.endswith(".tif")}
        assert sidecars == {key: (f"{bucket}/{name}",) for key, name in pairs.items()} | {"s/04.tif": ()}


def test_a_missing_folder_and_a_single_file(healthy):
    bucket, _ = healthy
    put(bucket, "a.tif", b"12345")
    with pytest.raises(FileNotFoundError, match="give the URI of the folder"):
        scan_archive(f"{bucket}/none")
    (entry,) = scan_archive(f"{bucket}/a.tif")
    assert (entry.uri, entry.path, entry.size_bytes) == ("a.tif", f"{bucket}/a.tif", 5)


def test_excluded_folders_are_left_out_of_the_listing(healthy):
    bucket, proxy = healthy
    names = [f"thumbs/{k:04d}.jpg" for k in range(2100)] + ["a.tif", "z/Thumbs/b.jpg", "z/c.tif"]
    for name in names:
        put(bucket, name, b"1")
    proxy.requests.clear()
    selection = FileSelection(("thumbs/",))
    assert [e.uri for e in scan_archive(bucket, selection)] == ["a.tif", "z/c.tif"]
    assert selection.n_folders == 2
    listings = [request for request in proxy.requests if "list-type=2" in str(request)]
    assert len(listings) <= 2, listings
    assert [e.uri for e in scan_archive(bucket, FileSelection(include=("c.*",)))] == ["z/c.tif"]


def test_several_sources_in_a_bucket_give_each_key_once(healthy, tmp_path):
    bucket, _ = healthy
    for key in ("mon/s/a.tif", "tue/s/a.tif", "tue/s/deep/b.tif", "c.tif"):
        put(bucket, key, b"1")
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "d.tif").write_bytes(b"1")
    sources = [f"{bucket}/mon/s", f"{bucket}/tue/s/", f"{bucket}/tue/s/deep", f"{bucket}/c.tif", str(tmp_path / "s")]
    entries = {e.uri: e.path for e in ArchiveFiles(name_sources(list_sources(sources)), Archive())}
    root = bucket.removeprefix("s3://")
    local_name = f"{tmp_path.name}-s"
    assert set(entries) == {"mon-s/a.tif", "tue-s/a.tif", "tue-s/deep/b.tif", f"{root}/c.tif", f"{local_name}/d.tif"}
    everything = [e.uri for e in ArchiveFiles(name_sources(list_sources([*sources, bucket])), Archive())]
    assert sorted(uri.rpartition("/")[2] for uri in everything) == ["a.tif", "a.tif", "b.tif", "c.tif", "d.tif"]


def test_what_lies_beside_an_image_is_read_with_it(healthy, tmp_path):
    from PIL import Image

    bucket, proxy = healthy
    Image.effect_noise((32, 24), 50).save(tmp_path / "a.jpg")
    image = (tmp_path / "a.jpg").read_bytes()
    text = b"[SemImageFile]\r\nPixelSize=12.5\r\n"
    (tmp_path / "a.txt").write_bytes(text)
    for key, data in {"a.jpg": image, "a.txt": text, "b.jpg": image, "c.txt": text}.items():
        put(bucket, key, data)
    entries = {e.uri: e for e in scan_archive(bucket)}
    assert {e.uri: e.sidecars for e in entries.values() if e.sidecars} == {"a.jpg": (f"{bucket}/a.txt",)}
    proxy.requests.clear()
    (with_text,) = survey_file(entries["a.jpg"], Archive())[1]
    (alone,) = survey_file(entries["b.jpg"], Archive())[1]
    assert len(proxy.requests) == 3
    (local,) = survey_file(next(iter(scan_archive(tmp_path))), Archive())[1]
    assert local["nm_per_pixel"] == with_text["nm_per_pixel"] == 12.5
    assert alone["nm_per_pixel"] != alone["nm_per_pixel"]
