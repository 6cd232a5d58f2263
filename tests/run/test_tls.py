"""Laws of TLS: with the folder everybody talks, without it nobody does, and certificates are made once."""

import os
import signal
import stat
import subprocess
import time
import urllib.error
import urllib.request

import psutil
import pytest
from distributed import Client

from emqa_dask.run import local, tls, workers
from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Run, Settings
from emqa_dask.settings.schedulers import Local
from tests.run.test_remote import scheduler, started, worker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tls.write_certificates(tmp_path_factory.mktemp("tls") / "certificates")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return tls.write_certificates(tmp_path_factory.mktemp("tls") / "others")


def options(folder):
    return "--tls-ca-file", f"{folder}/ca.pem", "--tls-cert", f"{folder}/cert.pem", "--tls-key", f"{folder}/key.pem"


def refused(address, folder=""):
    """A client is not let in."""
    try:
        Client(address, timeout=1, security=tls.load_security(str(folder)))
    except OSError:
        return True


def test_certificates_are_for_their_owner_and_signed_by_their_authority(certificates):
    assert sorted(path.name for path in certificates.iterdir()) == ["ca.pem", "cert.pem", "key.pem"]
    assert stat.S_IMODE((certificates / "key.pem").stat().st_mode) == 0o600
    said = subprocess.run(
        ["openssl", "verify", "-CAfile", "ca.pem", "cert.pem"], cwd=certificates, capture_output=True, text=True
    )
    assert said.stdout == "cert.pem: OK\n"


def test_certificates_are_not_overwritten(certificates):
    before = (certificates / "key.pem").read_bytes()
    with pytest.raises(FileExistsError, match="choose another folder"):
        tls.write_certificates(certificates)
    assert (certificates / "key.pem").read_bytes() == before


def test_a_folder_without_certificates_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"ca\.pem is not there: run\.tls is a folder with"):
        open_cluster(Settings(run=Run(tls=str(tmp_path)))).__enter__()


@pytest.mark.real
def test_local_workers_speak_tls_only(certificates, others):
    with open_cluster(Settings(run=Run(workers=1, tls=str(certificates)))) as client:
        address = client.scheduler.address
        assert all(place.startswith("tls://127.0.0.1:") for place in [address, *client.nthreads()])
        assert client.submit(abs, -1).result() == 1
        assert refused(address.replace("tls://", "tcp://"))
        assert refused(address, others)
        assert client.submit(abs, -2).result() == 2


@pytest.mark.real
def test_a_tls_scheduler_is_used_with_the_same_folder(certificates, others, tmp_path):
    path = tmp_path / "scheduler.json"
    host = ("--host", "tls://127.0.0.1")
    with started(scheduler(path, *host, *options(certificates)), worker(path, *host, *options(certificates))):
        wanted = Run(scheduler=f"file:{path}", tls=str(certificates), wait_s=60)
        with open_cluster(Settings(run=wanted), say=lambda text: None) as client:
            address = client.scheduler.address
            assert address.startswith("tls://")
            assert client.submit(abs, -1).result() == 1
        assert refused(address, others)
        with pytest.raises(RuntimeError, match="speaks TLS only"):
            open_cluster(Settings(run=Run(scheduler=address))).__enter__()


def steal():
    return os.environ["A_SECRET"]


def take_from_a_worker(address, security=None):
    """What a process that knows no more than an open port gets; with certificates of its own, if any."""
    with Client(address, timeout=2, security=security) as client:
        return client.submit(steal, pure=False).result(timeout=20)


def is_refused(address, security=None):
    try:
        take_from_a_worker(address, security)
    except OSError:
        return True


@pytest.mark.real
def test_local_workers_take_no_code_from_others(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    with open_cluster(Settings(run=Run(workers=1))) as client:
        address = client.scheduler.address
        places = [address, *client.nthreads(), *(w["nanny"] for w in client.scheduler_info()["workers"].values())]
        assert all(place.startswith("tls://127.0.0.1:") for place in places)
        for place in places:
            assert is_refused(place.replace("tls://", "tcp://"))
            assert is_refused(place, tls.make_temporary_security())
        assert client.submit(steal).result() == "hunter2"


@pytest.mark.real
def test_without_tls_others_can_run_code(monkeypatch):
    monkeypatch.setenv("A_SECRET", "hunter2")
    with open_cluster(Settings(run=Run(workers=1), local=Local(tls=False))) as client:
        assert client.scheduler.address.startswith("tcp://127.0.0.1:")
        assert take_from_a_worker(client.scheduler.address) == "hunter2"


@pytest.mark.real
@pytest.mark.parametrize("method", ["forkserver", "spawn"])
def test_certificates_reach_workers_that_are_started_again(method, monkeypatch):
    monkeypatch.setattr(local, "START_METHOD", method)
    monkeypatch.setattr(workers, "START_METHOD", method)
    with open_cluster(Settings(run=Run(workers=2)), ["emqa_dask.store.parts"]) as client:
        before = client.run(os.getpid)
        os.kill(next(iter(before.values())), signal.SIGKILL)
        while len(now := client.run(os.getpid, on_error="ignore")) < 2 or set(now) == set(before):
            time.sleep(0.1)
        first = client.submit(abs, -1, workers=[sorted(now)[0]])
        second = sorted(now)[1]
        assert client.submit(abs, first, workers=[second]).result() == 1  # fetched from the other worker


@pytest.mark.real
def test_the_dashboard_only_shows():
    with open_cluster(Settings(run=Run(workers=1))) as client:
        known = client.scheduler_info()
        ports = [known["services"]["dashboard"], *(w["services"]["dashboard"] for w in known["workers"].values())]
        assert urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/health").read() == b"ok"
        for port in ports:
            for path in ("proxy/22/127.0.0.1/", "api/v1/retire_workers", "jupyter"):
                for data in (None, b"{}"):
                    with pytest.raises(urllib.error.HTTPError, match=r"404|405"):
                        urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}", data)
        everybody = [psutil.Process(), *psutil.Process().children(recursive=True)]
        places = [place.laddr for process in everybody for place in process.net_connections("tcp")]
        assert {place.ip for place in places if place.port in ports} == {"127.0.0.1"}
