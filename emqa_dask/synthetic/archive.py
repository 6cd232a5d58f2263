"""synthesise(): an archive as people leave them, sessions of mixed formats and faults, and its truth beside it."""

import csv
import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emqa_dask import output_folders
from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.synthetic import coco, labels, mdoc, sessions, writers
from emqa_dask.synthetic.faults import FAULTS, FOREIGN, apply_fault, make_foreign_image, make_near_duplicate
from emqa_dask.synthetic.file_plan import UNANNOTATED, File, plan_files
from emqa_dask.synthetic.profiles import FOIL, PROFILES, UNEXPOSED, make_sample
from emqa_dask.synthetic.sample import Sample, compute_tight_boxes
from emqa_dask.synthetic.sessions import SessionPlan


@dataclass(frozen=True)
class Content:
    """What a file holds: pixels (n x h x w, or n x h x w x 3), a sample and a severity a frame, the pixel size."""

    pixels: np.ndarray
    samples: list[Sample]
    severities: list[float]
    nm_per_pixel: float | None


def synthesise(
    out: str | Path,
    profile: str = "demo",
    n: int = 72,
    seed: int = 0,
    shape: tuple[int, int] | None = None,
    faults: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    dose_factor: float = 1.0,
    n_labels: int = 0,
) -> dict:
    """Write `n` micrographs of `profile` (frames of stacks count one each) into folder `out`, and the truth beside it.

    `out/<session>/...` holds the files and a few that are no micrographs. `<out>.truth/` is a sibling, so that triaging
    `out` does not read it: `annotations.json` (COCO, compressed RLE; `nm_per_pixel`, `nm_per_pixel_in_file`, `frame`,
    `fault`, `is_annotated` an image), `faults.csv` (file, frame, fault, severity; fault empty for good ones) and
    `others.csv` (file, kind). `faults` None takes all of `FAULTS` for 30 % of the micrographs, each at least once when
    `n` is 40 or more; an empty one makes only good images. `shape` None draws one a session. `progress(done, n)` is
    called after every file. Same arguments, same bytes. `dose_factor` multiplies the dose of every image of a profile
    that notes it (hrtem-particles): the same archive, acquired again. Such images have a file of SerialEM beside them,
    with dose, defocus and pixel size.

    The truth also has what a person knows beforehand: `samples.csv` (pattern of uris, sample) and a lattice file for
    each crystal, such as `Au.toml`. With `n_labels` it has `labels.json`: COCO of so many random micrographs of
    cavities and particles, as a person would label them.

    Returns counts: `n_files`, `n_micrographs`, `formats`, `faults`, and `truth` (the folder). Raises ValueError for an
    unknown profile or fault, `n` below 1, a dose_factor that the profile does not take or too many labels, and
    FileExistsError when `out` or its truth folder is not empty.
    """
    out = Path(out)
    truth = out.with_name(out.name + ".truth")
    faults = tuple(FAULTS) if faults is None else tuple(faults)
    check_seed("seed", seed)
    _check_arguments(out, truth, profile, n, faults)
    rng = np.random.default_rng([seed, n])
    session_plans = _plan_sessions(rng, profile, n, shape)
    if dose_factor != 1:
        _change_dose(session_plans, profile, dose_factor)
    files = plan_files(rng, n, faults, session_plans)
    labels.check_label_count(n_labels, files, session_plans)

    images, annotations, rows = _write_files(out, files, session_plans, seed, n, progress)
    non_micrographs = sessions.write_non_micrographs(out, rng, session_plans)
    info = {"description": f"emqa synthesise: profile {profile}, n {n}, seed {seed}"}
    categories = [{"id": number, "name": name} for name, number in coco.CATEGORIES.items()]
    document = {"info": info, "images": images, "annotations": annotations, "categories": categories}
    truth.mkdir(parents=True, exist_ok=True)
    (truth / "annotations.json").write_text(json.dumps(document), encoding="utf-8")
    _write_csv(truth / "faults.csv", ("file", "frame", "fault", "severity"), rows)
    _write_csv(truth / "others.csv", ("file", "kind"), non_micrographs)
    _write_knowledge(truth, document, session_plans, n_labels, seed)
    return {
        "n_files": len(files) + len(non_micrographs),
        "n_micrographs": len(rows),
        "formats": dict(Counter(file.format for file in files)),
        "faults": dict(Counter(row["fault"] or "none" for row in rows)),
        "truth": str(truth),
    }


def _plan_sessions(rng: np.random.Generator, profile: str, n: int, shape: tuple[int, int] | None) -> list[SessionPlan]:
    if profile == FOIL:
        return sessions.plan_foil(rng, shape)
    return sessions.plan_sessions(rng, PROFILES[profile], int(np.clip(n // 8, 1, 60)), shape)


def _write_knowledge(truth: Path, document: dict, session_plans: list[SessionPlan], n_labels: int, seed: int) -> None:
    """Write what a person knows beforehand: samples, crystals and `n_labels` labels."""
    _write_csv(truth / "samples.csv", ("uri", "sample"), labels.list_samples(session_plans))
    for name, text in labels.format_crystals(session_plans).items():
        (truth / name).write_text(text, encoding="utf-8")
    if n_labels:
        selected = labels.select_labels(document, n_labels, np.random.default_rng([seed, n_labels]))
        (truth / "labels.json").write_text(json.dumps(selected), encoding="utf-8")


def _write_files(
    out: Path,
    files: list[File],
    session_plans: list[SessionPlan],
    seed: int,
    n: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[list[dict], list[dict], list[dict]]:
    """Write the `files`; returns the images and annotations of COCO and the rows of faults.csv."""
    images: list[dict] = []
    annotations: list[dict] = []
    rows: list[dict] = []
    for number, file in enumerate(files):
        name = format_file_path(file, number, session_plans[file.session_index])
        content = _write_file(out / name, number, files, session_plans, seed)
        for frame, (sample, fault) in enumerate(zip(content.samples, file.frames)):
            rows.append({"file": name, "frame": frame, "fault": fault, "severity": content.severities[frame]})
            images.append(
                _make_image_record(
                    len(images) + 1, name, frame, fault, sample, content, session_plans[file.session_index]
                )
            )
            if fault not in UNANNOTATED:
                annotations += coco.make_annotations(sample, len(images), len(annotations) + 1)
        if progress is not None:
            progress(len(rows), n)
    return images, annotations, rows


def _check_arguments(out: Path, truth: Path, profile: str, n: int, faults: tuple[str, ...]) -> None:
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is not one of {', '.join(PROFILES)}")
    check_integer("n", n, 1)
    unknown_faults = sorted(set(faults) - set(FAULTS))
    if unknown_faults:
        raise ValueError(f"unknown faults {', '.join(unknown_faults)}; known: {', '.join(FAULTS)}")
    for folder in (out, truth):
        if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
            raise FileExistsError(f"{folder} is there and not empty: choose another name, or move it away")
        output_folders.check_parent_folders(output_folders.make_absolute(folder))


def _change_dose(session_plans: list[SessionPlan], profile: str, dose_factor: float) -> None:
    check_number("dose_factor", dose_factor, 1e-3, 1e3)
    for session in session_plans:
        if session.micrograph_family not in UNEXPOSED:
            raise ValueError(
                f"dose_factor {dose_factor:g}: images of profile {profile} note no dose; draw {UNEXPOSED[0]}"
            )
        session.choices["dose_factor"] = dose_factor


def format_file_path(file: File, number: int, session: SessionPlan) -> str:
    copy_suffix = " - Copy" if file.frames[0] == "duplicate" else ""
    return f"{session.folder}/{session.format_file_name(number)}{copy_suffix}{writers.FORMATS[file.format][0]}"


def _write_file(path: Path, number: int, files: list[File], session_plans: list[SessionPlan], seed: int) -> Content:
    """Write file `number`; a copy is drawn again from its original's seed, so it needs no memory of it."""
    file = files[number]
    source = number if file.copy_of is None else file.copy_of
    session = session_plans[files[source].session_index]
    content = _draw_file_content(np.random.default_rng([seed, len(files), source]), files[source], session)
    if file.frames[0] == "near_duplicate":
        near_duplicate = make_near_duplicate(content.pixels[0], np.random.default_rng([seed, len(files), number]))
        content = Content(near_duplicate[None], content.samples, [1.0], content.nm_per_pixel)
    elif file.frames[0] == "duplicate":
        content = Content(content.pixels, content.samples, [1.0], content.nm_per_pixel)
    meta = {"instrument": session.instrument, "acquired": session.format_acquisition_time(source)}
    voltage = content.samples[0].meta.get("voltage_kv")
    path.parent.mkdir(parents=True, exist_ok=True)
    writers.write_frames(
        path,
        file.format,
        content.pixels,
        content.nm_per_pixel,
        meta=meta | ({"voltage_kv": voltage} if voltage else {}),
    )
    metas = [sample.meta for sample in content.samples]
    if all(map(mdoc.has_conditions, metas)) and content.nm_per_pixel:
        mdoc.write_mdoc(path, metas, content.pixels.shape[1:3], content.nm_per_pixel)
    return content


def _draw_file_content(rng: np.random.Generator, file: File, session: SessionPlan) -> Content:
    if file.frames[0] in FOREIGN:
        foreign_image = make_foreign_image(file.frames[0], rng, session.shape)
        empty_sample = Sample(foreign_image, compute_tight_boxes([]), [], [], float("nan"), {})
        return Content(foreign_image[None], [empty_sample], [1.0], None)
    dtypes = writers.FORMATS[file.format][1]
    carries_size = writers.FORMATS[file.format][3]
    dtype = str(rng.choice(dtypes))
    nm_per_pixel = session.draw_pixel_size(rng)
    forgets_size = rng.random() < 0.15
    samples = []
    pixels = []
    severities = []
    for fault in file.frames:
        sample = make_sample(
            session.micrograph_family,
            rng,
            session.shape,
            clear=True,
            dtype=dtype,
            nm_per_pixel=nm_per_pixel,
            **session.draw_choices(rng),
        )
        nm_per_pixel = sample.nm_per_pixel  # one a file: what the first frame drew holds for the rest
        severity = round(float(rng.uniform(1.0, 1.4)), 2) if fault else 0.0
        samples.append(sample)
        choices = {"severity": severity, "nm_per_pixel": nm_per_pixel}
        pixels.append(apply_fault(fault, sample.image, rng, **choices) if fault else sample.image)
        severities.append(severity)
    is_stated = mdoc.has_conditions(samples[0].meta) or (carries_size and not forgets_size)
    return Content(np.stack(pixels), samples, severities, nm_per_pixel if is_stated else None)


def _make_image_record(number, name, frame, fault, sample, content, session) -> dict:
    return {
        "id": number,
        "file_name": name,
        "frame": frame,
        "height": content.pixels.shape[1],
        "width": content.pixels.shape[2],
        "nm_per_pixel": None if np.isnan(sample.nm_per_pixel) else sample.nm_per_pixel,
        "nm_per_pixel_in_file": content.nm_per_pixel,
        "family": sample.meta.get("family"),
        "session": session.folder,
        "fault": fault,
        "is_annotated": fault not in UNANNOTATED,
    }


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
