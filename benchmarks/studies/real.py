"""Detectors, predicted F1 and verdicts on all real labelled images, each judged by what did not see its source.

python -m benchmarks.studies.real --out DIR --models log:nanoparticle-tem cavity-tem [--fold 0=DIR --fold 1=DIR ...]
    [--sets emps loops ...] [--triage log cavity-tem] [--quality NAME|DIR|K=DIR ...] [--sheets] [--data DIR]

A model of --models is a bundled model, a model directory or the LoG of a template (log:TEMPLATE), which saw no real
image. --fold K=DIR is a model that was trained without the sources of fold K of real_sets: it judges the images of that
fold, and all of them together are called `folds`. --triage runs `emqa triage` with these detectors, of which `folds`
stands for the model of the fold; `--triage auto` leaves the choice to the program. --quality names its quality models,
and --folder further images without labels, whose verdicts alone are counted. Writes into DIR, for the name of --name:

detections/       detections of every model and image; they are computed once
triage/           workspaces of the runs of `emqa triage`; finished work is not repeated
rows.csv          an image and model: F1 at IoU 0.1, 0.3 and 0.5, numbers of objects, kinds of errors
sets.csv          a set and model: means of F1 at the score floor of a run and at the one selected on other folds
floors.csv        a set, model and score floor: means of F1
counts.csv        counts of cavities against the published truth
verdicts.csv      an image: verdict, flags, predicted and true F1
verdict_sets.csv  a set: precision and recall of trust, coverage, widths, false junk
calibrated.csv, calibrated_sets.csv   the same of the other images after `emqa calibrate` with N labels (--labels N)
flags.csv         a set and flag: share of images
summary.md        the tables to read
sheets/           pictures of the worst and the median images with true and detected boxes (--sheets)
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", NUMBA_NUM_THREADS="1")


import argparse
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.studies.real_calibration import can_calibrate, triage_with_labels
from benchmarks.studies.real_detections import CORNERS, StudyDetector, read_detections
from benchmarks.studies.real_metrics import FLOORS
from benchmarks.studies.real_scores import ALL_FOLDS, Judge, Scores, count_cavities, score_images, summarise_sets
from benchmarks.studies.real_sets import DATA, CavityImage, RealImage, read_cavity_counts, read_labelled_sets
from benchmarks.studies.real_sheets import draw_sheet
from benchmarks.studies.real_tables import format_report
from benchmarks.studies.real_triage import TriageGroup, make_archive, summarise_flags, summarise_verdicts, triage_images
from emqa_dask.settings import Settings, load_settings, replace

FOLDS_NAME = "folds"  # of the judge whose models left out one fold each
TEMPLATES = {"particle": "nanoparticle-tem", "loop": "generic", "cavity": "cavity-tem"}  # of a set by its objects
N_DRAWS = 3  # of the images that are labelled
AUTOMATIC = "auto"  # the detectors that the program selects


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--name", default="real", help="of the folder in DIR for the tables of this evaluation")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--fold", action="append", default=[], metavar="K=DIR")
    parser.add_argument("--sets", nargs="+", default=[], help="default: all")
    parser.add_argument("--triage", nargs="+", default=[], metavar="DETECTOR")
    parser.add_argument("--quality", nargs="+", default=[], metavar="MODEL")
    parser.add_argument("--template", default="", help="of all runs; default: by the objects of the set")
    parser.add_argument("--folder", action="append", default=[], metavar="NAME=DIR")
    parser.add_argument("--score-floor", type=float, default=Settings().featurise.score_floor)
    parser.add_argument("--labels", nargs="+", type=int, default=[], metavar="N", help="numbers of labelled images")
    parser.add_argument("--sheets", action="store_true")
    parser.add_argument("--limit", type=int, default=0, help="images of a set and fold, evenly chosen; 0: all")
    parser.add_argument("--data", type=Path, default=DATA)
    return parser.parse_args()


def split_by_fold(texts: Sequence[str]) -> dict[int, list[str]]:
    """The values of "K=VALUE" by fold K, and those without a fold for ALL_FOLDS, in order."""
    values: dict[int, list[str]] = {}
    for text in texts:
        key, separator, value = text.partition("=")
        is_of_fold = bool(separator) and key.isdigit()
        values.setdefault(int(key) if is_of_fold else ALL_FOLDS, []).append(value if is_of_fold else text)
    return values


def limit_images(images: list, group: Callable, n: int) -> list:
    """At most `n` images of every group, at even steps in their order; all for 0."""
    groups: dict[object, list] = {}
    for image in images:
        groups.setdefault(group(image), []).append(image)
    chosen = []
    for members in groups.values():
        steps = np.linspace(0, len(members) - 1, min(n or len(members), len(members))).round().astype(int)
        chosen += [members[k] for k in steps]
    return chosen


def main() -> None:
    options = parse_arguments()
    images = [i for i in read_labelled_sets(options.data) if not options.sets or i.dataset in options.sets]
    cavities = read_cavity_counts(options.data)
    cavities = [c for c in cavities if not options.sets or c.name.partition("/")[0] in options.sets]
    images = limit_images(images, lambda image: (image.dataset, image.fold), options.limit)
    cavities = limit_images(cavities, lambda image: image.name.partition("/")[0], options.limit)
    fold_models = {fold: values[0] for fold, values in split_by_fold(options.fold).items()}
    out = options.out / options.name
    out.mkdir(parents=True, exist_ok=True)
    judges = [Judge(name, {ALL_FOLDS: StudyDetector(name)}) for name in options.models]
    if fold_models:
        judges.append(Judge(FOLDS_NAME, {fold: StudyDetector(name) for fold, name in fold_models.items()}))
    if judges:
        evaluate_detectors(judges, images, cavities, options, out)
    if options.triage:
        folds = fold_models if FOLDS_NAME in options.triage else ()
        evaluate_verdicts(list_groups(images, cavities, options.folder, folds), fold_models, options, out)
    (out / "summary.md").write_text(format_report(out, " ".join(sys.argv[1:])))
    print((out / "summary.md").read_text())


def evaluate_detectors(
    judges: Sequence[Judge],
    images: list[RealImage],
    cavities: list[CavityImage],
    options: argparse.Namespace,
    out: Path,
) -> None:
    """Writes rows.csv, floors.csv, sets.csv and counts.csv, and draws sheets."""
    cache = options.out / "detections"
    scores = [score_images(judge, images, cache, options.score_floor, print) for judge in judges if images]
    if scores:
        pd.concat([part.rows for part in scores]).to_csv(out / "rows.csv", index=False)
        pd.concat([summarise_sets(part) for part in scores]).to_csv(out / "sets.csv", index=False)
        curves = pd.concat([part.curve for part in scores])
        columns = [name for name in curves if name.startswith("f1_")]
        curves.groupby(["model", "set", "score_floor"])[columns].mean().to_csv(out / "floors.csv")
    if options.sheets:
        for judge, part in zip(judges, scores):
            draw_sheets(judge, part, images, options, out / "sheets" / Path(judge.name).name)
    floors = sorted({*FLOORS, options.score_floor})
    detectors = dict.fromkeys(detector for judge in judges for detector in judge.detectors.values())
    counts = [count_cavities(detector, cavities, cache, floors, print) for detector in detectors if cavities]
    if counts:
        pd.concat(counts).to_csv(out / "counts.csv", index=False)


def draw_sheets(
    judge: Judge, scores: Scores, images: list[RealImage], options: argparse.Namespace, folder: Path
) -> None:
    """A picture of the worst and the median images of every set."""
    by_name = {image.name: image for image in images}
    for name, rows in scores.rows.groupby("set"):
        detected = {}
        for row in rows.itertuples():
            detector = judge.select_detector(row.fold)
            path = by_name[row.image].path
            table = read_detections(detector, [path], options.out / "detections")[path]
            detected[row.image] = table.loc[table["score"] >= options.score_floor, CORNERS].to_numpy(float)
        draw_sheet(folder / f"{name}.png", rows, by_name, detected)


def evaluate_verdicts(
    groups: Sequence[TriageGroup], fold_models: dict[int, str], options: argparse.Namespace, out: Path
) -> None:
    """Writes verdicts.csv, verdict_sets.csv and flags.csv after every run of `emqa triage` on a group."""
    tables = []
    calibrated = []
    for group in groups:
        settings = make_settings(group.kind, group.fold, fold_models, options)
        archive = make_archive(options.out / "archives" / group.name, group.paths)
        print(f"triage of {group.name}: {len(group.paths)} images", flush=True)
        workspace = options.out / "triage" / options.name / group.name
        tables.append(label_rows(triage_images(archive, workspace, settings, group.boxes), group))
        table = pd.concat(tables, ignore_index=True)
        table.to_csv(out / "verdicts.csv", index=False)
        summarise_verdicts(table, ["set"]).to_csv(out / "verdict_sets.csv", index=False)
        summarise_flags(table).to_csv(out / "flags.csv", index=False)
        for n_labels in options.labels:
            if can_calibrate(group, n_labels):
                for seed in range(N_DRAWS):
                    calibrated.append(label_rows(triage_with_labels(group, workspace, n_labels, seed), group))
        if calibrated:
            table = pd.concat(calibrated, ignore_index=True)
            table.to_csv(out / "calibrated.csv", index=False)
            summarise_verdicts(table, ["n_labels", "set"]).to_csv(out / "calibrated_sets.csv", index=False)


def label_rows(rows: pd.DataFrame, group: TriageGroup) -> pd.DataFrame:
    """`rows` of verdicts with the set, fold, image and source of each."""
    names = group.dataset + "/" + rows["uri"]
    return rows.assign(set=group.dataset, fold=group.fold, image=names, source=rows["uri"].map(group.sources))


def list_groups(
    images: Sequence[RealImage], cavities: Sequence[CavityImage], folders: Sequence[str], folds: Collection[int]
) -> list[TriageGroup]:
    """Runs of `emqa triage`: one per set, or per set and fold of `folds`.

    What has no source in any fold, cavities and `folders` ("NAME=DIR"), goes to the first of `folds`.
    """
    first_fold = min(folds, default=ALL_FOLDS)
    members: dict[tuple[str, int], list[RealImage]] = {}
    for image in images:
        if not folds or image.fold in folds:
            members.setdefault((image.dataset, image.fold if folds else ALL_FOLDS), []).append(image)
    groups = []
    for (name, fold), rows in members.items():
        boxes = {row.path.name: row.boxes for row in rows}
        sources = {row.path.name: row.source for row in rows}
        groups.append(TriageGroup(name, fold, rows[0].kind, [row.path for row in rows], boxes, sources))
    paths: dict[str, list[Path]] = {}
    for image in cavities:
        paths.setdefault(image.name.partition("/")[0], []).append(image.path)
    groups += [TriageGroup(name, first_fold, "cavity", files, {}, {}) for name, files in paths.items()]
    for text in folders:
        name, _, folder = text.partition("=")
        files = sorted(path for path in Path(folder).iterdir() if path.is_file())
        groups.append(TriageGroup(name, first_fold, "", files, {}, {}))
    return groups


def make_settings(kind: str, fold: int, fold_models: dict[int, str], options: argparse.Namespace) -> Settings:
    """Settings of the template for the kind of objects, with the detectors and quality models of the options.

    One process does the run, and no image times out, so that results do not depend on the load of the machine.
    """
    changes: dict[str, dict] = {"run": {"scheduler": "in-process", "timeout_s": 0.0}}
    if options.triage != [AUTOMATIC]:
        detectors = [fold_models[fold] if name == FOLDS_NAME else name for name in options.triage]
        changes["detect"] = {"detectors": detectors}
    quality = split_by_fold(options.quality)
    if quality:
        changes["predict"] = {"models": [*quality.get(fold, []), *quality.get(ALL_FOLDS, [])]}
    return replace(load_settings(template=options.template or TEMPLATES.get(kind, "generic")), changes)


if __name__ == "__main__":
    main()
