"""Which files a synthetic archive gets: sessions, formats, faults and copies."""

from dataclasses import dataclass

import numpy as np

from emqa_dask.synthetic.faults import FOREIGN
from emqa_dask.synthetic.sessions import SessionPlan

FAULT_SHARE = 0.3  # of the micrographs of an archive
COPIES = ("duplicate", "near_duplicate")
# JPEG's own losses would hide these; people who have such images kept them in a lossless format.
LOSSLESS_ONLY = ("x_rays", "under_exposure", "saturation", "blank")
# Faults after which the objects are no longer where, or no longer what, the boxes say.
UNANNOTATED = ("blank", "near_duplicate", *FOREIGN)


@dataclass(frozen=True)
class File:
    """A file to write: which session, in which format, a fault or "" for every frame; `copy_of` is a file's number."""

    session_index: int
    format: str
    frames: tuple[str, ...]
    copy_of: int | None = None


def plan_files(
    rng: np.random.Generator, n: int, faults: tuple[str, ...], session_plans: list[SessionPlan]
) -> list[File]:
    """The files to write, `n` frames in all: stacks first, then single images, then copies of good single images."""
    n_faults = max(round(FAULT_SHARE * n), len(faults) if n >= 40 else 0) if faults else 0
    n_rounds = -(-n_faults // max(len(faults), 1))
    fault_names = [str(name) for _ in range(n_rounds) for name in rng.permutation(faults)][:n_faults]
    if n < 4:  # too few for a copy and its original
        fault_names = [name for name in fault_names if name not in COPIES]
    copy_names = [name for name in fault_names if name in COPIES]
    foreign_names = [name for name in fault_names if name in FOREIGN]
    faulty_frames = [name for name in fault_names if name not in COPIES and name not in FOREIGN]
    frames = [str(name) for name in rng.permutation(faulty_frames + [""] * (n - len(fault_names)))]

    files = []
    for stack in range(0 if n < 16 else max(2, n // 36)):
        length = int(rng.integers(2, 6)) if len(frames) > 12 else 2
        # An operator does not put a bar on one frame of a stack.
        stack_frames = [name for name in frames if name not in ("banner", "scale_bar")][:length]
        for name in stack_frames:
            frames.remove(name)
        session_index = stack % len(session_plans)
        files.append(File(session_index, session_plans[session_index].stack_format, tuple(stack_frames)))
    for number, fault in enumerate(frames + foreign_names):
        session_index = number % len(session_plans)
        options = session_plans[session_index].formats
        format_ = options[number // len(session_plans) % len(options)]
        if fault in FOREIGN:
            format_ = str(rng.choice(["tiff", "png"] if fault == "diffraction" else ["jpeg", "png"]))
        elif fault in LOSSLESS_ONLY and format_ == "jpeg":
            format_ = "png"
        files.append(File(session_index, format_, (fault,)))
    good_file_numbers = [number for number, file in enumerate(files) if file.frames == ("",)]
    for name in copy_names:
        original = int(rng.choice(good_file_numbers))
        # A duplicate turns up on another drive, a near-duplicate beside its original.
        session_index = int(rng.integers(len(session_plans))) if name == "duplicate" else files[original].session_index
        files.append(File(session_index, files[original].format, (name,), original))
    return files
