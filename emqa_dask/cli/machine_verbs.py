"""The verbs that need no workspace: synthesise, certificates, doctor."""

import argparse
import sys

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings


def add_synthesise(verbs) -> None:
    """`emqa synthesise`."""
    synthesise = verbs.add_parser(
        "synthesise",
        help="write an archive of micrographs with known answers",
        description=(
            "Write synthetic micrographs with faults, in the formats people have, to OUT; the truth (COCO JSON, CSV of "
            "faults) goes beside it, into OUT.truth, with a table of samples and the crystals that lattices show."
        ),
    )
    synthesise.add_argument("out", metavar="OUT")
    synthesise.add_argument("--profile", default="demo", help="default: demo; an unknown name lists them all")
    synthesise.add_argument("--n", type=int, default=60, help="micrographs to write, default 60")
    synthesise.add_argument("--seed", type=int, default=0, help="same seed, same archive; default 0")
    synthesise.add_argument(
        "--dose-factor",
        metavar="X",
        type=float,
        default=1.0,
        help="of profile hrtem-particles: every dose times X, so that the same seed gives the same specimens, acquired "
        "again; default 1",
    )
    synthesise.add_argument(
        "--labels",
        metavar="N",
        type=int,
        default=0,
        help="also write OUT.truth/labels.json, the objects of N random micrographs of cavities and particles, as a "
        "person would label them for emqa calibrate and emqa estimate",
    )
    synthesise.set_defaults(run=run_synthesise)


def run_synthesise(options: argparse.Namespace) -> int:
    """An archive with known answers."""
    from tqdm import tqdm

    from emqa_dask.synthetic.archive import synthesise

    with tqdm(desc="synthesise", unit=" images", disable=not sys.stderr.isatty()) as bar:

        def progress(n_done: int, total: int) -> None:
            bar.total = total
            bar.update(n_done - bar.n)

        choices = {"progress": progress, "dose_factor": options.dose_factor, "n_labels": options.labels}
        counts = synthesise(options.out, options.profile, options.n, options.seed, **choices)
    say(
        f"{counts['n_micrographs']} micrographs in {counts['n_files']} files in {options.out}; truth: {counts['truth']}"
    )
    say("formats: " + ", ".join(f"{name} {n}" for name, n in sorted(counts["formats"].items())))
    say("faults: " + ", ".join(f"{name} {n}" for name, n in sorted(counts["faults"].items())))
    return 0


def add_certificates(verbs) -> None:
    """`emqa certificates`."""
    certificates = verbs.add_parser(
        "certificates",
        help="write certificates for TLS between client, scheduler and workers",
        description="Write ca.pem, cert.pem and key.pem into FOLDER, for --set run.tls=FOLDER: then client, scheduler "
        "and workers speak TLS only, and only with one another. Whoever has key.pem is let in; keep it to yourself.",
    )
    certificates.add_argument("folder", metavar="FOLDER")
    certificates.set_defaults(run=run_certificates)


def run_certificates(options: argparse.Namespace) -> int:
    """Certificates for TLS."""
    from emqa_dask.run.tls import write_certificates

    say(f"certificates in {write_certificates(options.folder)}; use them with --set run.tls={options.folder}")
    return 0


def add_doctor(verbs) -> None:
    """`emqa doctor`."""
    doctor = verbs.add_parser(
        "doctor",
        help="check this machine: versions, memory, disk, GPU; with --scheduler its workers, too",
        description="Check that this machine can run emqa_dask, and say what to do where it cannot. With --scheduler, "
        "look at the workers there, too.",
    )
    add_settings(doctor)
    doctor.set_defaults(run=run_doctor)


def run_doctor(options: argparse.Namespace) -> int:
    """Whether this machine, or the workers of a scheduler, can run emqa_dask."""
    from emqa_dask.run.doctor import check_machine

    return check_machine(say, read_settings(options, None))
