"""Sessions at the microscope: folders with odd names, one camera and one specimen each, and the files lying about."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from emqa_dask.synthetic import lattices, writers
from emqa_dask.synthetic.profiles import SHAPE_SHARES, SHAPES
from emqa_dask.synthetic.sample import draw_log_uniform

_OPERATORS = ("JD", "Müller", "a.kowalska", "guest03", "O'Brien", "sato", "课题组", "nils")
_TOPICS = (
    "Fe-Cr 600°C",
    "bubbles dose series",
    "Pt on CeO2",
    "lot check",
    "STO film",
    "after anneal",
    "Test 2 (new holder)",
)
_NAMES = (
    "IMG_{:04d}",
    "{:04d}",
    "area {:d}",
    "Übersicht_{:03d}",
    "x150k_{:03d}",
    "grain boundary #{:d}",
    "scan-{:05d} final",
)
_INSTRUMENTS = ("Titan 80-300", "JEM-2100F", "Talos F200X", "HD2700", "Quanta 250 FEG")
# Pixel sizes (nm) that people choose for a family; None: the family's own rule.
_PIXELS = {
    "cavity-tem": (0.15, 0.8),
    "nanoparticle-tem": (0.08, 0.5),
    "atomic-stem": (0.011, 0.017),
    "sem-texture": None,
    "hrtem-particles": (0.08, 0.2),
}
_ONE_MAGNIFICATION = ("atomic-stem", "hrtem-particles")  # families of which a session has one magnification
# The foil: objects that a microscopist would count, at one magnification, in files that state their pixel size.
_FOIL = {"folder": "Fe-9Cr foil 2", "shape": (512, 512), "formats": ("fei", "imagej"), "nm_per_pixel": 0.4}
_FOIL_CAVITIES = {"facet": None, "median_radius_px": 10.0, "sigma_log": 0.3}
_FOIL_COUNT = 60  # mean number of cavities in an image of the foil


@dataclass(frozen=True)
class SessionPlan:
    """One session: folder, family of micrographs, shape of the camera, formats saved, and what stays the same."""

    folder: str
    micrograph_family: str
    shape: tuple[int, int]
    formats: tuple[str, ...]
    stack_format: str
    nm_per_pixel: float | None
    choices: dict
    pattern: str
    instrument: str
    day: str
    mean_count: float | None = None  # of the objects of an image of a uniform specimen; None: the family's own rule

    def format_file_name(self, number: int) -> str:
        """A name without suffix, unique in the folder for each `number`."""
        return self.pattern.format(number)

    def format_acquisition_time(self, number: int) -> str:
        """When image `number` was taken, ISO 8601."""
        minutes = 9 * 60 + (7 * number) % (9 * 60)
        return f"{self.day}T{minutes // 60:02d}:{minutes % 60:02d}:{(13 * number) % 60:02d}"

    def draw_pixel_size(self, rng: np.random.Generator) -> float | None:
        """The session's pixel size (nm) at one of three neighbouring magnifications; None lets the family draw it."""
        step = float(rng.choice([0.5, 1.0, 2.0], p=[0.15, 0.7, 0.15]))
        if self.nm_per_pixel is None:
            return None
        is_fixed = self.micrograph_family in _ONE_MAGNIFICATION or self.mean_count is not None
        return self.nm_per_pixel * (1.0 if is_fixed else step)

    def draw_choices(self, rng: np.random.Generator) -> dict:
        """Arguments of the family's draw function for one image."""
        return self.choices if self.mean_count is None else self.choices | {"n": int(rng.poisson(self.mean_count))}


def plan_sessions(
    rng: np.random.Generator, shares: dict[str, float], count: int, shape: tuple[int, int] | None
) -> list[SessionPlan]:
    """`count` sessions: every family of `shares` once if there are enough, then by share; formats dealt out in turn."""
    singles = rng.permutation([name for name, (_, _, max_frames, _) in writers.FORMATS.items() if max_frames == 1])
    stacks = [name for name, (_, _, max_frames, _) in writers.FORMATS.items() if max_frames > 1]
    names = list(shares)
    families = [*names, *rng.choice(names, size=max(count - len(names), 0), p=list(shares.values()))][:count]
    session_plans = []
    for k, micrograph_family in enumerate(families):
        day = f"{rng.integers(2009, 2026)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}"
        operator = str(rng.choice(_OPERATORS))
        topic = str(rng.choice(_TOPICS))
        styles = (
            f"{day}_{operator}",
            f"{day.replace('-', '')} {topic}",
            f"{operator}/{day} {topic}",
            f"old drive/{topic}/{operator}",
        )
        pixels = _PIXELS[str(micrograph_family)]
        choices: dict = {}
        if micrograph_family == "sem-texture":
            choices["lot"] = int(rng.integers(0, 8))
        if micrograph_family == "atomic-stem":
            choices["cell"] = str(rng.choice(sorted(lattices.CELLS)))
        if micrograph_family == "cavity-tem":
            choices["facet"] = [True, False, None][int(rng.integers(3))]
        session_plans.append(
            SessionPlan(
                folder=str(rng.choice(styles)) + (f" {k + 1}" if k else ""),
                micrograph_family=str(micrograph_family),
                shape=tuple(shape) if shape else SHAPES[int(rng.choice(len(SHAPES), p=SHAPE_SHARES))],
                formats=tuple(str(singles[(2 * k + i) % len(singles)]) for i in (0, 1)),
                stack_format=stacks[k % len(stacks)],
                nm_per_pixel=float(f"{draw_log_uniform(rng, *pixels):.3g}") if pixels else None,
                choices=choices,
                pattern=str(rng.choice(_NAMES)),
                instrument=str(rng.choice(_INSTRUMENTS)),
                day=day,
            )
        )
    return session_plans


def plan_foil(rng: np.random.Generator, shape: tuple[int, int] | None) -> list[SessionPlan]:
    """One session with images of one irradiated foil, whose cavities have the same density everywhere."""
    (session,) = plan_sessions(rng, {"cavity-tem": 1.0}, 1, shape)
    foil = _FOIL | ({"shape": tuple(shape)} if shape else {})
    return [replace(session, choices=dict(_FOIL_CAVITIES), mean_count=_FOIL_COUNT, **foil)]


def write_non_micrographs(out: Path, rng: np.random.Generator, session_plans: list[SessionPlan]) -> list[dict]:
    """Files that are no micrographs, as sessions leave them: notes, a table, a spectrum. Rows of `file` and `kind`."""
    sessions_with_files = [session_plans[int(rng.integers(len(session_plans)))] for _ in range(3)]
    notes, table, spectrum = (out / session.folder for session in sessions_with_files)
    for folder in (notes, table, spectrum):
        folder.mkdir(parents=True, exist_ok=True)
    (notes / "README first.txt").write_text(
        f"Session of {sessions_with_files[0].day} on the {sessions_with_files[0].instrument}.\nAsk before deleting.\n"
    )
    lines = ["x_um,y_um,tilt_deg", *(f"{x:.3f},{y:.3f},0.0" for x, y in rng.uniform(-900, 900, (12, 2)))]
    (table / "stage_positions.csv").write_text("\n".join(lines) + "\n")
    energy = np.arange(2048) * 0.01
    counts = 400 * np.exp(-energy / 3)
    for line, height in ((0.52, 900), (6.40, 2500), (7.06, 400), (8.05, 700)):  # O Ka, Fe Ka, Fe Kb, Cu Ka, keV
        counts = counts + height * np.exp(-0.5 * ((energy - line) / 0.06) ** 2)
    axis = {"name": "Energy", "scale": 0.01, "offset": 0.0, "units": "keV"}
    data = rng.poisson(counts).astype(np.uint32)
    writers.write_hspy(spectrum / "EDS spectrum 1.hspy", data, [axis], title="EDS", signal_type="EDS_TEM")
    paths = (notes / "README first.txt", table / "stage_positions.csv", spectrum / "EDS spectrum 1.hspy")
    return [
        {"file": path.relative_to(out).as_posix(), "kind": kind}
        for path, kind in zip(paths, ("text", "text", "spectrum"))
    ]
