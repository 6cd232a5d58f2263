"""What a person knows about a synthetic archive: labels of some micrographs, the samples, the crystals."""

import numpy as np

from emqa_dask.number_ranges import check_integer
from emqa_dask.synthetic import lattices
from emqa_dask.synthetic.file_plan import UNANNOTATED, File
from emqa_dask.synthetic.sessions import SessionPlan

# Families whose objects a person counts one by one -> name of the sample that such sessions show.
SAMPLES = {"cavity-tem": "cavities", "nanoparticle-tem": "particles", "hrtem-particles": "particles"}


def check_label_count(n_labels: int, files: list[File], session_plans: list[SessionPlan]) -> None:
    """Raises ValueError where so many micrographs cannot be labelled."""
    check_integer("labels", n_labels, 0)
    n_labellable = _count_labellable(files, session_plans)
    if n_labels > n_labellable:
        raise ValueError(
            f"labels {n_labels}: only {n_labellable} micrographs of this archive show cavities or particles that can "
            "be labelled; ask for fewer, or for a larger n"
        )


def _count_labellable(files: list[File], session_plans: list[SessionPlan]) -> int:
    """The number of frames with objects that a person can label."""
    own_files = [file if file.copy_of is None else files[file.copy_of] for file in files]
    return sum(
        fault not in UNANNOTATED
        for file, own in zip(files, own_files)
        if session_plans[own.session_index].micrograph_family in SAMPLES
        for fault in file.frames
    )


def select_labels(document: dict, n_labels: int, rng: np.random.Generator) -> dict:
    """COCO document of `n_labels` random micrographs of the families of `SAMPLES` in the truth `document`."""
    candidates = [image for image in document["images"] if image["is_annotated"] and image["family"] in SAMPLES]
    numbers = sorted(rng.choice(len(candidates), n_labels, replace=False).tolist())
    images = [candidates[number] for number in numbers]
    image_ids = {image["id"] for image in images}
    annotations = [row for row in document["annotations"] if row["image_id"] in image_ids]
    info = {"description": f"{document['info']['description']}: labels of {n_labels} random micrographs"}
    return {**document, "info": info, "images": images, "annotations": annotations}


def list_samples(session_plans: list[SessionPlan]) -> list[dict[str, str]]:
    """Rows of `uri` (pattern) and `sample` of the sessions that show cavities or particles."""
    return [
        {"uri": f"{session.folder}/*", "sample": SAMPLES[session.micrograph_family]}
        for session in session_plans
        if session.micrograph_family in SAMPLES
    ]


def format_crystals(session_plans: list[SessionPlan]) -> dict[str, str]:
    """Lattice files as emqa tune log takes them, by file name, a crystal each."""
    folders: dict[str, list[str]] = {}
    for session in session_plans:
        if session.micrograph_family == "atomic-stem":
            line = f"{session.folder}: {session.nm_per_pixel:g} nm per pixel"
            folders.setdefault(session.choices["cell"], []).append(line)
    return {
        f"{cell.replace(' [', '-').rstrip(']')}.toml": "\n".join(
            [f"# {cell}", *(f"# {line}" for line in lines), _format_cell(cell)]
        )
        for cell, lines in folders.items()
    }


def _format_cell(cell: str) -> str:
    a_nm, b_nm, gamma_deg = lattices.get_cell(cell)[:3]
    columns = ", ".join(f"[{u:.4g}, {v:.4g}]" for u, v, *_ in lattices.get_cell(cell)[3])
    return f"a_nm = {a_nm}\nb_nm = {b_nm}\ngamma_deg = {gamma_deg}\ncolumns = [{columns}]\n"
