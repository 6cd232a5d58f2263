"""Are faults found, each for its own reason, and good images left alone? Prints a confusion table; exit 1 if not.

Faults and good images are synthetic and come from --seed: seeds below 1000 were used in development, those above are
for checks. Bounds: recall of every fault's own flag >= 0.95; good images with any flag <= 0.02. Optical faults (blur,
drift, astigmatism) are put on micrographs whose noise is below 12 % of the grey range, and leave it below 15 %: above,
noise hides optics and specimen from anybody. Photographs, plots, diffraction patterns and blanks go through detection,
forest and decide() with default settings too: none may be trusted. Those without any flag against it are listed. Real
micrographs and photographs of ../shared/data, where they are at hand, are a report without a bound.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks.copies_in_memory import flag_duplicates
from emqa_dask import tables
from emqa_dask.detect.log import detect_image
from emqa_dask.featurise.images import image_features
from emqa_dask.pipeline.tasks.image_measurement import measure_image as measure_image
from emqa_dask.pipeline.tasks.predict import join_evidence
from emqa_dask.predict.predictions import predict_images
from emqa_dask.settings import Settings, replace
from emqa_dask.synthetic.faults import FAULTS, FOREIGN, apply_fault, estimate_noise_level, make_foreign_image
from emqa_dask.synthetic.profiles import FAMILIES, make_sample
from emqa_dask.triage import decide
from emqa_dask.triage.detector_choice import select_detector
from emqa_dask.triage.flags import flag_images
from emqa_dask.triage.rows import join_tables, list_files

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
RECALL = 0.95
FALSE = 0.02
OPTICS = ("blur", "drift", "astigmatism")
OPTICS_NOISE = 0.12
OPTICS_LEFT = 0.15
NEVER_TRUSTED = ("photograph", "plot", "diffraction", "blank")
NOTES = {"banner", "scale_bar"}  # flags that do not keep an image from trust


def luma(rgb):
    """Grey image of an RGB one and the fraction of its coloured pixels, as ingestion makes them."""
    if rgb.ndim == 2:
        return rgb, 0.0
    coloured = np.ptp(rgb.astype(int), axis=2) > 0.08 * np.iinfo(rgb.dtype).max
    return np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(rgb.dtype), float(coloured.mean())


def noise_share(image):
    """White noise over the grey range, also that which the camera's blur hides from one pixel; pure noise has 0.19."""
    low, high = np.percentile(image, [0.5, 99.5])
    h, w = (side // 2 * 2 for side in image.shape)
    binned = image[:h, :w].reshape(h // 2, 2, w // 2, 2).mean((1, 3))
    return max(estimate_noise_level(image), 2 * estimate_noise_level(binned)) / max(high - low, 1e-12)


def micrograph(rng, k):
    return make_sample(list(FAMILIES)[k % len(FAMILIES)], rng).image


def optical_fault(fault, rng, k):
    """A micrograph of little noise with `fault`, of which something is left to see: drawn until it is both."""
    while True:
        image = micrograph(rng, k)
        if noise_share(image) < OPTICS_NOISE:
            faulty = apply_fault(fault, image, rng)
            if noise_share(faulty) < OPTICS_LEFT:
                return faulty


def images(seed, n_good, n_per_fault, faults=tuple(FAULTS)):
    """(fault, image, colour_fraction) of the benchmark; a near-duplicate follows its original, which counts as good."""
    for k in range(n_good):
        yield "good", micrograph(np.random.default_rng([seed, 0, k]), k), 0.0
    for number, fault in enumerate(FAULTS, 1):
        for k in range(n_per_fault if fault in faults else 0):
            rng = np.random.default_rng([seed, number, k])
            if fault in FOREIGN:
                shape = ((512, 512), (480, 640), (1024, 1024), (256, 256))[k % 4]
                yield fault, *luma(make_foreign_image(fault, rng, shape))
                continue
            if fault in OPTICS:
                yield fault, optical_fault(fault, rng, k), 0.0
                continue
            original = micrograph(rng, k)
            if "duplicate" in fault:
                yield "original", original, 0.0
            yield fault, apply_fault(fault, original, rng), 0.0


def real_images():
    for folder in ("uw_cavity", "arda_stem_np", "uw_loops", "emps", "abtem_sim"):
        for path in sorted((REAL / folder).rglob("*.*")):
            if path.suffix in (".png", ".jpg", ".tif") and "images" in str(path) + "images" * (folder == "abtem_sim"):
                image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
                yield folder, *luma(image[..., 2::-1] if image.ndim == 3 else image), path.name
    with np.load(REAL / "cifar10_ood" / "cifar10_train.npz") as data:
        stack = next(data[key] for key in data.files if data[key].ndim == 4)
    for k, small in enumerate(stack):
        big = cv2.resize(small, (256, 256), interpolation=cv2.INTER_CUBIC)
        grey, colour = luma(big)
        yield "cifar10 in colour", grey, colour, str(k)
        yield "cifar10 in grey", grey, 0.0, str(k)


def measured(rows):
    """Features and the bookkeeping that duplicates need, from (name, image, colour_fraction, ...)."""
    features = []
    known = []
    for k, (fault, image, colour, *rest) in enumerate(rows):
        features.append({"micrograph_id": f"{k:06d}", **image_features(image, colour_fraction=colour)})
        pixels = str(hash(image.tobytes()))
        known.append(
            {
                "micrograph_id": f"{k:06d}",
                "fault": fault,
                "uri": f"{k:06d}.tif",
                "name": rest[0] if rest else str(k),
                "frame": 0,
                "content_sha256": f"{k:06d}",
                "pixel_sha256": pixels,
                "height_px": image.shape[0],
                "width_px": image.shape[1],
                "dtype": str(image.dtype),
            }
        )
    return pd.DataFrame(features), pd.DataFrame(known)


def flags_of(features, known):
    results = pd.concat([flag_images(features), flag_duplicates(known, features)], ignore_index=True)
    return results.merge(known[["micrograph_id", "fault", "name"]], on="micrograph_id")


def verdicts(seed, n_per_fault):
    """Verdict counts of every picture of NEVER_TRUSTED, one row a fault, as the pipeline judges them by default."""
    settings = replace(Settings(), {"detect": {"detectors": ["log"]}})
    evidence = []
    rows = []
    faults = []
    for fault, image, colour in images(seed, 0, n_per_fault, NEVER_TRUSTED):
        blobs = detect_image(image, settings.detect)
        row = {"micrograph_id": f"{len(rows):06d}", "colour_fraction": colour}
        row |= {"height_px": image.shape[0], "width_px": image.shape[1]}
        row |= dict.fromkeys(("nm_per_pixel", "nm_per_pixel_y", "voltage_kv"), np.nan)
        said, features = measure_image(image, row, blobs, settings)
        evidence += said
        rows.append(features)
        faults.append(fault)
    features = tables.conform(rows, tables.FEATURES).to_pandas()
    evidence = join_evidence(tables.conform(evidence, tables.EVIDENCE).to_pandas(), features)
    known = {"micrograph_id": features["micrograph_id"], "uri": features["micrograph_id"] + ".tif", "frame": 0}
    known = tables.empty(tables.MICROGRAPHS).merge(pd.DataFrame(known), how="right")
    catalog = tables.empty(tables.CATALOG).merge(known[["uri"]], how="right").assign(status="ok")
    predicted = predict_images(evidence, settings.predict.models)
    selected = select_detector(evidence, predicted, ["log"], settings.triage.max_ood_distance)
    decision_rows = pd.concat([list_files(catalog), join_tables(known, features, selected)], ignore_index=True)
    judged = decide(decision_rows, flag_images(features), settings.triage)
    fault_of = dict(zip(features["micrograph_id"], faults, strict=True))
    return pd.crosstab(judged["micrograph_id"].map(fault_of).rename("fault"), judged["verdict"])


def rates(found, known):
    """Share of the images of every fault (rows) that get every flag (columns), and `any`."""
    table = found.drop_duplicates(["micrograph_id", "flag"]).pivot_table(
        index="fault", columns="flag", values="micrograph_id", aggfunc="count", fill_value=0
    )
    table["any"] = found.groupby("fault")["micrograph_id"].nunique()
    n = known.groupby("fault").size()
    return table.reindex(n.index, fill_value=0).div(n, axis=0), n


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--n-per-fault", type=int, default=32)
    parser.add_argument("--n-good", type=int, default=200)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-real", action="store_true")
    parser.add_argument("--save", type=Path, help="folder for the features of this run, to look into")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    started = time.perf_counter()
    features, known = measured(images(args.seed, args.n_good, args.n_per_fault))
    results = flags_of(features, known)
    if args.save:
        args.save.mkdir(parents=True, exist_ok=True)
        features.merge(known, on="micrograph_id").to_pickle(args.save / "features.pkl")
        results.to_pickle(args.save / "flags.pkl")
    table, n = rates(results, known)
    recall = {fault: float(table.loc[fault, fault]) if fault in table.columns else 0.0 for fault in FAULTS}
    good = table.loc["good"]
    missed = [
        f"{row.fault} {row.name}"
        for row in known[known["fault"].isin(NEVER_TRUSTED)].itertuples(index=False)
        if not set(results.loc[results["micrograph_id"] == row.micrograph_id, "flag"]) - NOTES
    ]
    with pd.option_context("display.width", 250, "display.max_columns", 40):
        print(
            f"seed {args.seed}: {len(known)} images in {time.perf_counter() - started:.0f} s; "
            "share that gets each flag\n"
        )
        print(table.reindex(["good", "original", *FAULTS]).round(3).to_string())
    print(f"\nrecall (at least {RECALL}):")
    for fault, value in recall.items():
        print(f"  {fault:16s} {value:.3f} of {n[fault]}{'' if value >= RECALL else '   BELOW'}")
    print(f"false flags on {n['good']} good images (at most {FALSE}): any {good['any']:.3f}; ", end="")
    print(", ".join(f"{flag} {value:.3f}" for flag, value in good.drop("any").items() if value) or "none")
    print(
        "photographs, plots, diffraction patterns and blanks that no flag keeps from trust:",
        ", ".join(missed) or "none",
    )
    judged = verdicts(args.seed, args.n_per_fault)
    trusted = int(judged["trust"].sum()) if "trust" in judged else 0
    print(f"verdicts on these {judged.to_numpy().sum()}, with detection and forest (trusted: {trusted}, at most 0):")
    print(judged.to_string())
    record = {"seed": args.seed, "n": n.to_dict(), "recall": recall, "false": good.to_dict(), "trustable": missed}
    record["trusted"] = trusted
    if REAL.is_dir() and not args.no_real:
        real_features, real_known = measured(real_images())
        real_found = flags_of(real_features, real_known)
        real_table, real_n = rates(real_found, real_known)
        if args.save:
            real_features.merge(real_known, on="micrograph_id").to_pickle(args.save / "real.pkl")
            real_found.to_pickle(args.save / "real_flags.pkl")
        print("\nreal images (no bound): share that gets each flag")
        with pd.option_context("display.width", 250, "display.max_columns", 40):
            print(real_table.assign(n=real_n).round(3).to_string())
        record["real"] = real_table.to_dict("index")
    if args.json:
        args.json.write_text(json.dumps(record, indent=1))
    ok = min(recall.values()) >= RECALL and good["any"] <= FALSE and trusted == 0
    print("\nall bounds hold" if ok else "\na bound is broken")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
