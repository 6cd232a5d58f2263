"""An S3 server on loopback (moto, in a process of its own), behind a proxy that is healthy or faulty."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid

import fsspec
import pytest
from faulty_proxy import FaultyProxy

for package in ("moto", "s3fs"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install -e '.[dev,s3]'")

READ_TIMEOUT_S = 1
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_port(tmp_path_factory):
    """Port of a moto server that has nothing in front of it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = open(tmp_path_factory.mktemp("moto") / "log", "wb")  # noqa: SIM115
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert server.poll() is None, "the moto server has ended"
                time.sleep(0.1)
        yield port
    finally:
        server.kill()
        server.wait()
        log.close()


def use(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let this process and those it starts find S3 at `port`; the name of a new bucket there."""
    options = {
        "endpoint_url": f"http://127.0.0.1:{port}",
        "config_kwargs": {"connect_timeout": READ_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S},
    }
    monkeypatch.setenv("FSSPEC_S3", json.dumps(options))
    monkeypatch.setitem(fsspec.config.conf, "s3", options)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return f"test-{uuid.uuid4().hex[:12]}"


def make_bucket(port: int, name: str) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request")
    urllib.request.urlopen(request, timeout=30).close()


@pytest.fixture
def healthy(s3_port, monkeypatch):
    """(s3:// URI of a new bucket, the proxy in front of it, which only counts)."""
    with FaultyProxy(s3_port, fail_rate=0, stall_rate=0) as proxy:
        name = use(proxy.port, monkeypatch)
        make_bucket(s3_port, name)
        yield f"s3://{name}", proxy


@pytest.fixture
def faulty(s3_port, monkeypatch):
    """(s3:// URI of a new bucket, the proxy in front of it, which fails one request in ten and stalls one in fifty)."""
    with FaultyProxy(s3_port) as proxy:
        name = use(proxy.port, monkeypatch)
        make_bucket(s3_port, name)
        yield f"s3://{name}", proxy
