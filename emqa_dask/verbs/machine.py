"""What needs no workspace: synthesise, certificates, doctor, and the import of detectors."""

from collections.abc import Sequence

from emqa_dask.cli import bench_verb, machine_verbs, model_verbs
from emqa_dask.settings import Settings
from emqa_dask.verbs.call import call_verb, list_texts


def synthesise_archive(
    out: str, profile: str = "demo", n: int = 60, seed: int = 0, *, dose_factor: float = 1.0, labels: int = 0
) -> str:
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
    dose_factor : float, default 1.0
        Multiplies every dose of the profile hrtem-particles: the same specimens, acquired again.
    labels : int, default 0
        Number of random micrographs of cavities and particles whose objects ``OUT.truth/labels.json`` has.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If there is no such profile, it takes no `dose_factor`, it has fewer such micrographs than `labels`, or `out`
        is not empty.
    """
    choices = {"profile": profile, "n": n, "seed": seed, "dose_factor": dose_factor, "labels": labels}
    call_verb(machine_verbs.run_synthesise, "synthesise", out=str(out), **choices)
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


def measure_scaling(
    source: str = "",
    out: str = "bench.json",
    settings: Settings | None = None,
    *,
    worker_counts: Sequence[int] = (1, 2),
    synthetic: int | None = None,
    rounds: int = 3,
    files: int = 64,
    seed: int = 0,
    for_images: int = 1_000_000,
    deadline_hours: float = 24.0,
    price_per_worker_hour: float | None = None,
    compare: Sequence[str] | None = None,
) -> str:
    """File with the times of a triage with several numbers of workers, and predictions. The verb `bench`.

    Parameters
    ----------
    source : str, optional
        An archive, of which a sample is triaged. Either this or `synthetic` is needed.
    out : str, default "bench.json"
        File to write; a page is written beside it.
    settings : Settings, optional
        Default: the defaults. ``run.workers`` does not count.
    worker_counts : sequence of int, default (1, 2)
        Numbers of workers, two or more.
    synthetic : int, optional
        Number of micrographs of 1024 x 1024 px to draw instead of `source`.
    rounds, files, seed : int
        Measurements of each number of workers; size and seed of the sample.
    for_images, deadline_hours, price_per_worker_hour : int, float, float or None
        Archive whose time and price are predicted; None for no price.
    compare : sequence of str, optional
        Two files of earlier measurements to compare; nothing is measured.

    Returns
    -------
    str
        `out`.

    Raises
    ------
    ValueError
        If the options or the archive say nothing about scaling.
    FileExistsError
        If `out` exists and is no measurement.
    """
    options = {"source": str(source), "out": str(out), "synthetic": synthetic, "rounds": rounds, "files": files}
    options |= {"seed": seed, "for_images": for_images, "deadline_hours": deadline_hours}
    options |= {"price_per_worker_hour": price_per_worker_hour, "worker_counts": list(worker_counts)}
    names = None if compare is None else list_texts(compare)
    call_verb(bench_verb.run_bench, "bench", settings=settings, compare=names, **options)
    return str(out)


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
