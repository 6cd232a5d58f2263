"""Laws of TLS: with the folder everybody talks, without it nobody does, and certificates are made once."""

import stat
import subprocess

import pytest
from distributed import Client

from emqa_dask.run import tls
from emqa_dask.run.cluster import open_cluster
from emqa_dask.settings import Run, Settings
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
        Client(address, timeout=1, security=tls.security(str(folder)))
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


def test_a_folder_without_certificates_is_an_error_that_names_the_file(tmp_path):
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
def test_a_scheduler_that_was_started_with_tls_is_used_with_the_same_folder(certificates, others, tmp_path):
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
