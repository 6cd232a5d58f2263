"""TLS between client, scheduler and workers: certificates of one run, or a folder with ca.pem, cert.pem and key.pem."""

import datetime
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from emqa_dask import output_folders

NAMES = ("ca.pem", "cert.pem", "key.pem")
_ROLES = ("client", "scheduler", "worker")


def load_security(folder: str):
    """Security of distributed that allows TLS only; None for the empty `folder`.

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
    roles = {
        f"tls_{role}_{file_kind}": str(path) for role in _ROLES for file_kind, path in (("cert", cert), ("key", key))
    }
    return Security(require_encryption=True, tls_ca_file=str(ca), **roles)


def make_temporary_security():
    """Security of distributed for this run only; key and certificate exist in memory.

    As Security.temporary() of distributed, but with a key of an elliptic curve: 1 ms instead of 20 to 200, and the
    handshake of every connection is shorter.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from distributed import Security

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "emqa_dask")])
    start_time = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start_time - datetime.timedelta(days=1))  # a clock may be set while the run lasts
        .not_valid_after(start_time + datetime.timedelta(days=365))
        .sign(key, hashes.SHA256())
    )
    formats = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret = key.private_bytes(*formats).decode()
    public = certificate.public_bytes(formats[0]).decode()
    roles = {
        f"tls_{role}_{file_kind}": pem for role in _ROLES for file_kind, pem in (("cert", public), ("key", secret))
    }
    return Security(require_encryption=True, tls_ca_file=public, **roles)


def write_certificates(folder: str | Path, days: int = 365) -> Path:
    """`folder`, in which ca.pem, cert.pem and key.pem were written for a test or a small lab.

    The authority's key is thrown away: it signs this one certificate and no other. FileExistsError where `folder` is
    there and not empty, RuntimeError without the openssl command.
    """
    folder = Path(folder)
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there and not an empty folder: choose another folder, or move it away")
    output_folders.check_parent_folders(output_folders.make_absolute(folder))
    if shutil.which("openssl") is None:
        raise RuntimeError("certificates are made by the openssl command, which is not here: install OpenSSL")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        new_folder = Path(scratch)
        run_openssl(new_folder, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem",
                 "-subj", "/CN=emqa_dask authority", "-days", str(days))  # fmt: skip
        run_openssl(new_folder, "req", *new_key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=emqa_dask")
        run_openssl(new_folder, "x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key",
                 "-CAcreateserial", "-out", "cert.pem", "-days", str(days))  # fmt: skip
        (new_folder / "key.pem").chmod(0o600)
        for name in NAMES:
            os.replace(new_folder / name, folder / name)
    return folder


def run_openssl(folder: Path, *arguments: str) -> None:
    ran = subprocess.run(["openssl", *arguments], cwd=folder, capture_output=True, text=True)
    if ran.returncode != 0:
        raise RuntimeError(f"openssl {arguments[0]} failed: {' '.join(ran.stderr.split())}")
