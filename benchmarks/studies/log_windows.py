"""LoG tuned by window against one setting for the image: columns in varying noise or contrast, and real particles."""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import tifffile

from benchmarks.studies import columns, particles
from emqa_dask.detect.log import detect_image
from emqa_dask.detect.log_windows import detect_image_by_windows
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.commands.tune_log import tune_log
from emqa_dask.pipeline.commands.tune_log_options import TuneOptions
from emqa_dask.settings import Settings, load_settings, replace
from emqa_dask.tune.lattice import LatticePhysics

Judge = Callable[[pd.DataFrame], float]


def quiet(text: str) -> None:
    pass


def compare(image: np.ndarray, settings: Settings, options: TuneOptions, judge: Judge) -> dict[str, float]:
    """F1 of one tuned setting and of a tuned map of settings on an image, and the number of windows."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "archive"
        archive.mkdir()
        tifffile.imwrite(archive / "image.tif", image)
        root = str(Path(folder) / "ws")
        run(str(archive), root, settings, steps=("ingest",), say=quiet)
        out = str(Path(folder) / "tuned.toml")
        (tuned,) = tune_log(root, out, settings, options, say=quiet)
        (cohort,) = load_settings(out).cohorts
        detect = cohort.merge_detect_settings(settings.detect)
    return {
        "one_setting": judge(detect_image(image, detect)),
        "by_window": judge(detect_image_by_windows(image, detect, cohort.windows)),
        "windows": len(cohort.windows),
        "fallbacks": int(tuned.windows["is_fallback"].sum()),
    }


def write_lattice(physics: LatticePhysics, folder: Path) -> str:
    """A lattice file of SrTiO3 [001]."""
    path = folder / "lattice.toml"
    path.write_text("a_nm = 0.3905\nb_nm = 0.3905\ngamma_deg = 90\ncolumns = [[0, 0], [0.5, 0.5]]\n")
    return str(path)


def draw_cases(n_seeds: int) -> Iterator[tuple[str, int, columns.Case]]:
    """SrTiO3 [001] whose noise, or whose contrast in constant noise, varies from left to right."""
    for seed in range(n_seeds):
        case = columns.synthetic("SrTiO3 [001]", seed, spacing_px=13, shape=(384, 768))
        grain = np.random.default_rng([seed, 7]).standard_normal(case.image.shape, dtype=np.float32)
        ramp = np.linspace(0, 1, case.image.shape[1], dtype=np.float32)
        yield "noise 0 to 1.2", seed, case._replace(image=case.image + 1.2 * ramp * grain)
        yield "contrast 1 to 0.1, noise 0.1", seed, case._replace(image=case.image * (1 - 0.9 * ramp) + 0.1 * grain)


def read_multislice_cases(n_seeds: int) -> Iterator[tuple[str, int, columns.Case]]:
    """The HAADF images of SrTiO3 by multislice, with noise that rises from left to right."""
    folder = particles.SHARED / "abtem_sim"
    if not folder.exists():
        return
    facts = json.loads((folder / "sto_haadf.json").read_text())
    sites = np.array([(c["y"], c["x"]) for c in facts["columns_px"] if c["element"] != "O"], float)
    physics = columns.physics_of("SrTiO3 [001]")
    for path in sorted(folder.glob("sto_haadf_*.tif")):
        image = columns.unit_range(tifffile.imread(path))
        ramp = np.linspace(0, 0.8, image.shape[1], dtype=np.float32)
        for seed in range(n_seeds):
            grain = np.random.default_rng([seed, 8]).standard_normal(image.shape, dtype=np.float32)
            case = columns.Case(path.stem, image + ramp * grain, sites, physics, facts["pixel_size_nm"])
            yield f"{path.stem}, noise 0 to 0.8", seed, case


def compare_columns(cases, settings: Settings, size_px: int, evaluations: int) -> list[dict]:
    """A row for each case: F1 of the places of columns."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, seed, case in cases:
            options = TuneOptions(
                lattice=write_lattice(case.physics, Path(folder)),
                nm_per_pixel=case.nm_per_pixel,
                evaluations=evaluations,
                windows=size_px,
                seed=seed,
            )
            result = compare(case.image, settings, options, lambda p, case=case: columns.judged(p, case)["true_f1"])
            rows.append({"case": name, "seed": seed} | result)
            print(json.dumps(rows[-1]), flush=True)
    return rows


def compare_particles(settings: Settings, evaluations: int) -> list[dict]:
    """A row for each real image of nanoparticles: box F1 after tuning without labels, two windows a side or more."""
    rows = []
    for images in particles.cohorts("arda_stem_np").values():
        for labelled in images:
            options = TuneOptions(
                rewards=("doubtful_count",), evaluations=evaluations, windows=max(labelled.image.shape) // 2
            )
            result = compare(
                labelled.image, settings, options, lambda p, labelled=labelled: particles.true_f1(p, labelled)
            )
            rows.append({"case": "arda_stem_np", "image": labelled.name} | result)
            print(json.dumps(rows[-1]), flush=True)
    return rows


def summarise(rows: list[dict]) -> pd.DataFrame:
    """Mean F1 of each case, and of how many images the map is better and worse by over 0.01."""
    table = pd.DataFrame(rows)
    gain = table["by_window"] - table["one_setting"]
    grouped = table.assign(is_better=gain > 0.01, is_worse=gain < -0.01).groupby("case", sort=False)
    means = grouped[["one_setting", "by_window"]].mean().round(3)
    return means.assign(n=grouped.size(), n_better=grouped["is_better"].sum(), n_worse=grouped["is_worse"].sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="of the drawn and of the simulated images")
    parser.add_argument("--evaluations", type=int, default=48)
    parser.add_argument("--windows", type=int, default=192, help="px, of the drawn images; of the simulated ones 130")
    parser.add_argument("--only", nargs="*", default=["drawn", "simulated", "particles"])
    parser.add_argument("--json", type=Path, help="file for all rows")
    arguments = parser.parse_args()
    in_process = {"run": {"scheduler": "in-process"}}
    atomic = replace(load_settings(template="atomic-stem"), in_process)
    rows: list[dict] = []
    if "drawn" in arguments.only:
        rows += compare_columns(draw_cases(arguments.seeds), atomic, arguments.windows, arguments.evaluations)
    if "simulated" in arguments.only:
        rows += compare_columns(read_multislice_cases(arguments.seeds), atomic, 130, arguments.evaluations)
    if "particles" in arguments.only:
        settings = replace(load_settings(template="nanoparticle-tem"), in_process)
        rows += compare_particles(settings, arguments.evaluations)
    print(summarise(rows).to_string())
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
