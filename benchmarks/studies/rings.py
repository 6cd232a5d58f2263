"""Thon rings: defocus recovered from simulated films, false finds on images without rings, and the cost.

Films span 80 to 300 kV, Cs 0 to 2.7 mm, 0.03 to 0.25 nm/px, 300 to 3000 nm of either sign, astigmatism to 20 %, doses
from hopeless to clean. A film's rings count as visible where at least four stand over the noise by the simulation's
own power: modulation times the root of a ring's independent pixels at least 4, at least 3 pixels of the transform wide.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd

from emqa_dask.featurise.rings import measure_thon_rings
from emqa_dask.optics import compute_wavelength, temporal_envelope
from emqa_dask.synthetic import fields, foreign
from emqa_dask.synthetic.films import ATOM_NM, draw_amorphous_film
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.synthetic.sample import draw_log_uniform

FAMILIES = ("nanoparticle-tem", "atomic-stem", "sem-texture")
SHAPES = ((512, 512), (1024, 1024))
TOLERANCE = 0.05


def draw(rng: np.random.Generator) -> dict:
    defocus = float(rng.choice([-1, 1])) * draw_log_uniform(rng, 300, 3000)
    return {
        "nm_per_pixel": draw_log_uniform(rng, 0.03, 0.25),
        "defocus_nm": defocus,
        "voltage_kv": float(rng.choice([80, 120, 200, 300])),
        "cs_mm": float(rng.choice([0.0, 1.2, 2.7])),
        "amplitude": float(rng.uniform(0.05, 0.14)),  # the estimate takes 0.1 for all
        "focal_spread_nm": float(rng.uniform(2, 6)),
        "convergence_mrad": float(rng.uniform(0.02, 0.2)),
        "astigmatism_nm": float(rng.uniform(0, 0.2)) * abs(defocus),
        "astigmatism_deg": float(rng.uniform(0, 180)),
        "contrast": float(rng.choice([0.03, 0.1])),
        "dose_e_per_px": draw_log_uniform(rng, 3, 500),
    }


def visible_rings(film: dict, side: int) -> int:
    """How many rings stand over the noise, from the simulation's own power."""
    q = np.linspace(0, 0.5 / film["nm_per_pixel"], 4000)
    wavelength = float(compute_wavelength(film["voltage_kv"]))
    cs_nm = film["cs_mm"] * 1e6
    envelope = temporal_envelope(q, film["voltage_kv"], film["focal_spread_nm"]) ** 2
    envelope *= np.exp(-2 * (np.pi * film["convergence_mrad"] * 1e-3 * film["defocus_nm"] * q) ** 2)
    envelope *= np.exp(-4 * (np.pi * ATOM_NM * q) ** 2)
    share = np.trapezoid(0.5 * envelope * 2 * np.pi * q, q) * film["nm_per_pixel"] ** 2
    over = envelope * film["contrast"] ** 2 / share * film["dose_e_per_px"]
    order = np.abs(wavelength * q**2 * (film["defocus_nm"] + 0.5 * cs_nm * wavelength**2 * q**2))
    whole = np.flatnonzero(np.diff(np.floor(order)) != 0)
    size = side * film["nm_per_pixel"]
    inner = q[whole[:-1]]
    outer = q[whole[1:]]
    strength = over[whole[:-1]]
    pixels = np.pi * (outer**2 - inner**2) / 2 * size**2 / 2.25  # of which the window leaves independent
    is_seen = strength / (strength + 2) * np.sqrt(pixels) >= 4
    return int((is_seen & ((outer - inner) * size >= 3)).sum())


def films(n: int) -> pd.DataFrame:
    rows = []
    for seed in range(n):
        rng = np.random.default_rng([1, seed])
        film = draw(rng)
        shape = SHAPES[seed % 2]
        image = draw_amorphous_film(rng, shape, **film)
        start = time.process_time()
        results = measure_thon_rings(image, film["nm_per_pixel"], film["voltage_kv"], cs_mm=film["cs_mm"])
        seconds = time.process_time() - start
        error = results.defocus_nm / abs(film["defocus_nm"]) - 1
        seen = visible_rings(film, shape[0])
        more = {"side_px": shape[0], "visible_rings": seen, "error": error, "cpu_s": seconds}
        rows.append(film | more | {f"found_{name}": value for name, value in results._asdict().items()})
    return pd.DataFrame(rows)


def ringless(name: str, rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    if name in FAMILIES:
        return make_sample(name, rng, shape, clear=bool(rng.random() < 0.5)).image
    if name == "white noise":
        return rng.poisson(draw_log_uniform(rng, 1, 100), shape)
    if name == "fractal":
        texture = fields.draw_fractal(rng, shape, exponent=rng.uniform(0.5, 3), finest_px=float(rng.choice([2, 4, 10])))
        return texture + 0.05 * fields.draw_white_noise(rng, shape)
    if name == "blurred noise":
        return fields.draw_white_noise(rng, shape, rng.uniform(0.3, 3)) + 0.05 * fields.draw_white_noise(rng, shape)
    image = foreign.make_foreign_image(name, rng, shape)
    return image.mean(axis=2) if image.ndim == 3 else image


def others(n: int) -> pd.DataFrame:
    rows = []
    for k, name in enumerate([*FAMILIES, "white noise", "fractal", "blurred noise", *foreign.FOREIGN]):
        for seed in range(n):
            rng = np.random.default_rng([2, k, seed])
            image = ringless(name, rng, SHAPES[seed % 2])
            kv = float(rng.choice([80, 200, 300]))
            cs = float(rng.choice([0.0, 1.2, 2.7]))
            results = measure_thon_rings(image, draw_log_uniform(rng, 0.03, 0.5), kv, cs_mm=cs)
            rows.append({"kind": name, "seed": seed, "is_found": np.isfinite(results.defocus_nm)} | results._asdict())
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--films", type=int, default=300)
    parser.add_argument("--others", type=int, default=40, help="images of each kind without rings")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with_rings = films(arguments.films)
    without = others(arguments.others)
    with_rings.to_csv(arguments.out / "films.csv", index=False)
    without.to_csv(arguments.out / "others.csv", index=False)
    is_found = with_rings["error"].notna()
    is_visible = with_rings["visible_rings"] >= 4
    is_right = with_rings["error"].abs() < TOLERANCE
    strong = is_found & (with_rings["astigmatism_nm"] > 0.05 * with_rings["defocus_nm"].abs())
    astigmatism = (with_rings["found_defocus_long_nm"] - with_rings["found_defocus_short_nm"]) / 2
    summary = {
        "films": len(with_rings),
        "visible": int(is_visible.sum()),
        "visible_and_found": float(is_found[is_visible].mean()),
        "visible_and_right_within_5_percent": float(is_right[is_visible].mean()),
        "found": int(is_found.sum()),
        "found_and_right_within_5_percent": float(is_right[is_found].mean()),
        "median_error": float(with_rings["error"].abs()[is_found].median()),
        "95th_percentile_of_error": float(with_rings["error"].abs()[is_found].quantile(0.95)),
        "median_astigmatism_error": float((astigmatism / with_rings["astigmatism_nm"] - 1).abs()[strong].median()),
        "images_without_rings": len(without),
        "false_finds": float(without["is_found"].mean()),
        "false_finds_by_kind": without.groupby("kind")["is_found"].mean().to_dict(),
        "cpu_ms_of_1024_px": 1e3 * float(with_rings.loc[with_rings["side_px"] == 1024, "cpu_s"].median()),
    }
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2))
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
