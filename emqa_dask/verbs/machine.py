"""What needs no workspace: synthesise, certificates, doctor, and the import of detectors."""

from collections.abc import Sequence

from emqa_dask.cli import machine_verbs, model_verbs
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts


def synthesise_archive(out: str, profile: str = "demo", n: int = 60, seed: int = 0) -> str:
    """Folder of synthetic micrographs with known answers, which are in ``OUT.truth``. The verb `synthesise`.

    Parameters
    ----------
    out : str
        Folder to write.
    profile : str, default "demo"
        What is drawn; the error for an unknown name lists them all.
    n : int, default 60
        Number of micrographs.
    seed : int, default 0
        The same seed gives the same archive.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If there is no such profile, or `out` is not empty.
    """
    call_verb(machine_verbs.run_synthesise, "synthesise", out=str(out), profile=profile, n=n, seed=seed)
    return str(out)


def write_certificates(folder: str) -> str:
    """Folder with ca.pem, cert.pem and key.pem for TLS between client, scheduler and workers. The verb `certificates`.

    Parameters
    ----------
    folder : str
        Folder to write, the value of the setting ``run.tls``.

    Returns
    -------
    str
        `folder`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    call_verb(machine_verbs.run_certificates, "certificates", folder=str(folder))
    return str(folder)


def check_machine(settings: Settings | None = None) -> int:
    """Number 0, or another one when something is missing, after checking this machine. The verb `doctor`.

    Parameters
    ----------
    settings : Settings, optional
        With a scheduler, whose workers are checked, too.

    Returns
    -------
    int
        0 when the machine can run emqa_dask.

    Raises
    ------
    ValueError
        If the settings do not fit together.
    """
    return call_verb(machine_verbs.run_doctor, "doctor", settings=settings)


def import_detector(
    checkpoint: str, out: str, classes: Sequence[str], *, config: str | None = None, architecture: str | None = None
) -> str:
    """Model directory made from the checkpoint of a Mask R-CNN. The verb `import detector`.

    Parameters
    ----------
    checkpoint : str
        File ``.pth``, ``.pkl`` or ``.safetensors``; only tensors are read from it.
    out : str
        Model directory to write.
    classes : sequence of str
        Names of the classes, in the order of the network.
    config : str, optional
        Configuration of detectron2 (YAML). Either this or `architecture` is needed.
    architecture : str, optional
        Architecture of torchvision (TOML).

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If not exactly one of `config` and `architecture` is given, or the weights do not fit it.
    """
    if (config is None) == (architecture is None):
        raise ValueError("give either config (detectron2) or architecture (torchvision)")
    options = {"checkpoint": str(checkpoint), "out": str(out), "classes": list_texts(classes)}
    call_verb(model_verbs.run_import, "import", **options, config=config, architecture=architecture)
    return str(out)
