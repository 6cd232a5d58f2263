"""TLS between client, scheduler and workers by one folder with ca.pem, cert.pem and key.pem."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from emqa_dask import outputs

NAMES = ("ca.pem", "cert.pem", "key.pem")


def security(folder: str):
    """A distributed Security with which nothing but TLS is spoken; None for the empty `folder`.

    Everybody has the same certificate: who has the folder belongs to the cluster. FileNotFoundError where it lacks a
    file.
    """
    if not folder:
        return None
    from distributed import Security

    ca, cert, key = (Path(folder).resolve() / name for name in NAMES)
    for path in (ca, cert, key):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is not there: run.tls is a folder with {', '.join(NAMES)}")
    roles = ("client", "scheduler", "worker")
    own = {f"tls_{role}_{kind}": str(path) for role in roles for kind, path in (("cert", cert), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=str(ca), **own)


def write_certificates(folder: str | Path, days: int = 365) -> Path:
    """Make `folder` with ca.pem, cert.pem and key.pem for a test or a small lab, valid for `days`; returns it.

    The authority's key is thrown away: it signs this one certificate and no other. FileExistsError where `folder` is
    there and not empty, RuntimeError without the openssl command.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not an empty folder: choose another folder, or move it away")
    outputs.check_parents(outputs.absolute(folder))
    if shutil.which("openssl") is None:
        raise RuntimeError("certificates are made by the openssl command, which is not here: install OpenSSL")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        made = Path(scratch)
        _openssl(made, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem",
                 "-subj", "/CN=emqa_dask authority", "-days", str(days))  # fmt: skip
        _openssl(made, "req", *new_key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=emqa_dask")
        _openssl(made, "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                 "-out", "cert.pem", "-days", str(days))  # fmt: skip
        (made / "key.pem").chmod(0o600)
        for name in NAMES:
            os.replace(made / name, folder / name)
    return folder


def _openssl(folder: Path, *arguments: str) -> None:
    ran = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    if ran.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {' '.join(ran.stderr.split())}")
