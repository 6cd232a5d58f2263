"""Laws of writing to a bucket: whole or not at all, one request each, whatever the network does."""

import collections

import pytest

from emqa_dask import uris
from emqa_dask.store import files, lock

boto3 = pytest.importorskip("boto3", reason="moto is not installed: pip install -e '.[dev,s3]'")

pytestmark = pytest.mark.real


def counts(proxy, start=0) -> collections.Counter:
    return collections.Counter(request.method for request in proxy.requests[start:])


def test_what_is_written_is_read_one_request_each(healthy):
    bucket, proxy = healthy
    for data in (b"", b"x", bytes(range(256)) * 40_000):
        proxy.requests.clear()
        files.write_bytes(f"{bucket}/a b/ü.bin", data)
        assert counts(proxy) == {"PUT": 1}
        with files.write_whole(f"{bucket}/a b/ü.bin") as stream:
            stream.write(data)
        assert counts(proxy) == {"PUT": 2}
        assert files.read_bytes(f"{bucket}/a b/ü.bin") == data
        assert counts(proxy) == {"PUT": 2, "GET": 1}
        assert files.list_names(f"{bucket}/a b") == ["ü.bin"]
        assert counts(proxy) == {"PUT": 2, "GET": 2}


def test_what_others_did_is_seen_at_once(healthy):
    bucket, _ = healthy
    assert files.list_names(f"{bucket}/f") == []
    assert not files.exists(f"{bucket}/f/a")
    files.write_bytes(f"{bucket}/f/a", b"1")
    # Another client: nothing of what it does is in our caches.
    client = boto3.client("s3", endpoint_url=files.locate(bucket)[0].endpoint_url)
    assert files.list_names(f"{bucket}/f") == ["a"]
    client.put_object(Bucket=bucket[5:], Key="f/b", Body=b"22")
    assert files.list_names(f"{bucket}/f") == ["a", "b"]
    assert files.exists(f"{bucket}/f/b")
    client.put_object(Bucket=bucket[5:], Key="f/b", Body=b"333")
    assert files.read_bytes(f"{bucket}/f/b") == b"333"
    client.delete_object(Bucket=bucket[5:], Key="f/b")
    assert files.list_names(f"{bucket}/f") == ["a"]
    assert not files.exists(f"{bucket}/f/b")


def test_a_missing_or_forbidden_file_is_asked_for_once(healthy):
    bucket, proxy = healthy
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{bucket}/none")
    assert counts(proxy) == {"GET": 1}
    with pytest.raises(FileNotFoundError):
        files.read_bytes(f"{bucket}-none/none")
    assert counts(proxy) == {"GET": 2}
    proxy.choose = lambda method, path: "403"
    with pytest.raises(PermissionError):
        files.read_bytes(f"{bucket}/none")
    with pytest.raises(PermissionError):
        files.write_bytes(f"{bucket}/none", b"x")
    assert counts(proxy) == {"GET": 3, "PUT": 1}


def test_create_has_one_winner(healthy):
    bucket, _ = healthy
    assert files.create_exclusively(f"{bucket}/f", b"1")
    assert not files.create_exclusively(f"{bucket}/f", b"2")
    assert files.read_bytes(f"{bucket}/f") == b"1"
    assert files.read_modified_s(f"{bucket}/f") > 1.7e9


def test_nothing_half_is_ever_seen_and_all_arrives(faulty):
    bucket, proxy = faulty
    written = {}
    proxy.fail_rate = 0.25
    proxy.stall_rate = 0.05
    for k in range(30):
        data = bytes([k % 256]) * (k * 4999)
        files.write_bytes(f"{bucket}/f{k % 20:03d}", data)
        written[f"f{k % 20:03d}"] = data
        assert files.read_bytes(f"{bucket}/f{k % 20:03d}") == data
    assert files.list_names(bucket) == sorted(written)
    for name, data in written.items():
        fs, path = files.locate(f"{bucket}/{name}")
        with fs.open(path, "rb") as stream:
            assert stream.read() == data
    met = {request.fault for request in proxy.requests}
    assert met >= {"500", "503", "reset before", "reset after", "reset within", "stall"}


def test_a_large_upload_goes_in_parts_or_is_aborted(healthy, monkeypatch):
    bucket, proxy = healthy
    monkeypatch.setattr(uris, "MAX_ATTEMPTS", 2)
    monkeypatch.setattr(files, "_UPLOAD_BYTES", 5 * 2**20)
    files.write_bytes(f"{bucket}/large", b"before")
    client = boto3.client("s3", endpoint_url=files.locate(bucket)[0].endpoint_url)
    proxy.choose = lambda method, path: "500" if "partNumber=3" in path else ""
    with pytest.raises(OSError, match="the proxy says InternalError"), files.write_whole(f"{bucket}/large") as stream:
        stream.write(bytes(16 * 2**20))
    assert files.read_bytes(f"{bucket}/large") == b"before"
    assert not client.list_multipart_uploads(Bucket=bucket[5:]).get("Uploads")
    proxy.choose = None
    with files.write_whole(f"{bucket}/large") as stream:
        stream.write(bytes(16 * 2**20))
    assert files.read_bytes(f"{bucket}/large") == bytes(16 * 2**20)


def test_the_lock_holds_on_a_faulty_bucket(faulty):
    bucket, _ = faulty
    for _ in range(2):
        with lock.hold_lock(f"{bucket}/ws") as held:
            held._look()
            held.check()
            with pytest.raises(RuntimeError, match="in use by process"), lock.hold_lock(f"{bucket}/ws"):
                pass
    assert files.list_names(f"{bucket}/ws") == []
