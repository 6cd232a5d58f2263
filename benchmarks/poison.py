"""Micrographs that segfault, hang, exhaust memory or raise, in a run that has to finish all the others.

The laws: exit code 2; the guilty, and only they, are in failures.parquet, with the right stage and kind, and have a row
with a reason in triage.parquet; all others are complete, and their rows are those of a run without poison; the work
that is done twice is bounded; a second run does nothing again; and once the poison is gone, `emqa retry --failed`
leaves what a run without poison leaves. Exit code 1 where one is broken.
"""

import argparse
import csv
import hashlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import workspaces

POISONED = Path(__file__).resolve().parent / "poisoned"
KIND_OF = {"segfault": "crash", "hang": "timeout", "sleep": "timeout", "memory": "memory", "raise": "error"}
STAGES_OF = {"detect": {"detect"}, "survey": {"survey", "ingest"}}
# A guilty image may cost its partition (or batch of files) once more, and itself a few tries.
TRIES = 3
FILES_PER_TASK = 16
# What an error has to say to be of use to a person.
TELLS = {"crash": "SIGSEGV", "timeout": "timeout_s", "memory": "memory", "error": "this micrograph is poisoned"}


def kinds(n_of_each: int) -> list[str]:
    """`n_of_each` of the four kinds; of those that hang, every other one without the GIL."""
    hanging = [("hang", "sleep")[k % 2] for k in range(n_of_each)]
    return ["segfault"] * n_of_each + hanging + ["memory"] * n_of_each + ["raise"] * n_of_each


def guilty_images(reference: Path, n_of_each: int, rng: random.Random) -> pd.DataFrame:
    """Micrographs to poison, of files and contents of their own, that no finding on another image refers to."""
    rows = workspaces.read_sorted_table(reference, "micrographs").to_pandas()
    flags = workspaces.read_sorted_table(reference, "flags").to_pandas()
    copies = flags.loc[flags["flag"].str.contains("duplicate"), "micrograph_id"]
    fit = ~rows["pixel_sha256"].duplicated(keep=False) & ~rows["micrograph_id"].isin(copies)
    rows = rows[fit].groupby("uri").head(1)
    selection = rows.iloc[rng.sample(range(len(rows)), 4 * n_of_each)]
    return selection.assign(poison=kinds(n_of_each), content=selection["pixel_sha256"])[["uri", "poison", "content"]]


def guilty_files(archive: Path, n_of_each: int, rng: random.Random) -> pd.DataFrame:
    """Files of one micrograph to poison, of contents of their own."""
    with archive.with_name(archive.name + ".truth").joinpath("faults.csv").open(newline="") as stream:
        frames = Counter(f"sessions/{row['file']}" for row in csv.DictReader(stream))
    single = [uri for uri, n in frames.items() if n == 1] + [f"series/{p.name}" for p in archive.glob("series/*")]
    rows = pd.DataFrame({"uri": sorted(single)})
    rows["content"] = [hashlib.sha256((archive / uri).read_bytes()).hexdigest() for uri in rows["uri"]]
    rows = rows[~rows["content"].duplicated(keep=False)]
    selection = rows.iloc[rng.sample(range(len(rows)), 4 * n_of_each)]
    return selection.assign(poison=kinds(n_of_each))


def start(archive: Path, workspace: Path, options: list[str], stage: str, guilty: pd.DataFrame, limit_s: float) -> dict:
    """A run with poison (or with none, which counts evaluations all the same): exit code, seconds, evaluations."""
    log = workspace.with_suffix(f".{time.monotonic_ns()}.looked")
    table = {"log": str(log), stage: dict(zip(guilty["content"], guilty["poison"]))}
    poison = workspace.with_suffix(".json")
    poison.write_text(json.dumps(table))
    path = os.pathsep.join(filter(None, [str(POISONED), os.environ.get("PYTHONPATH", "")]))
    env = {"PYTHONPATH": path, "EMQA_POISON": str(poison)}
    driver = workspaces.Driver(archive, workspace, options, workspace.with_suffix(".log"), env)
    try:
        code = driver.popen.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        code = None
    seconds = driver.seconds()
    driver.end()
    looked = Counter(log.read_text().splitlines()) if log.exists() else Counter()
    looked = Counter({line.split()[1]: n for line, n in looked.items() if line.startswith(stage)})
    return {"exit_code": code, "seconds": round(seconds, 1), "looked": looked}


def tasks(workspace: Path) -> dict[str, int]:
    """Rows of events.parquet by stage and outcome."""
    events = pd.read_parquet(workspace / "events.parquet", columns=["stage", "outcome"])
    return {f"{stage} {outcome}": int(n) for (stage, outcome), n in events.value_counts(sort=False).items()}


def without(table: pa.Table, uris: set[str], ids: set[str]) -> pa.Table:
    """`table` less the rows of these files and micrographs."""
    for column, values in (("uri", uris), ("micrograph_id", ids)):
        if column in table.column_names:
            table = table.filter(pc.invert(pc.is_in(table[column], pa.array(sorted(values), pa.string()))))
    return table


def check_laws(workspace: Path, reference: Path, stage: str, guilty: pd.DataFrame) -> tuple[list[str], list[dict]]:
    """Laws that the workspace breaks, in words; and a row for every guilty image: what it should be and what it is."""
    expected = reference_of(reference)
    broken = []
    rows = []
    failures = workspaces.read_sorted_table(workspace, "failures").to_pandas()
    triage = workspaces.read_sorted_table(workspace, "triage").to_pandas()
    images = expected["micrographs"].to_pandas().assign(content=lambda rows: rows["pixel_sha256"])
    images = images.merge(guilty[["uri", "content"]], on=["uri", "content"])
    guilty_ids = set(images["micrograph_id"])
    for image in guilty.itertuples():
        results = failures[failures["uri"] == image.uri]
        row = {"uri": image.uri, "poison": image.poison, "n_rows": len(results)}
        if len(results):
            row |= results.iloc[0][["stage", "kind", "error", "attempts"]].to_dict() | {
                "attempts": int(results.attempts.iloc[0])
            }
        of_image = triage[(triage["uri"] == image.uri) & (triage["status"] == "failed")]
        row["reasons"] = list(of_image["reasons"].iloc[0]) if len(of_image) == 1 else None
        kind = KIND_OF[image.poison]
        right = len(results) == 1 and row["kind"] == kind and row["stage"] in STAGES_OF[stage]
        row["is_right"] = bool(right and TELLS[kind] in row["error"] and row["reasons"])
        if not row["is_right"]:
            broken.append(f"{image.uri} ({image.poison}): {row}")
        rows.append(row)
    if innocent := sorted(set(failures["uri"]) - set(guilty["uri"])):
        broken.append(f"{len(innocent)} files are blamed that are not guilty: {', '.join(innocent[:3])}")
    # Of a file that could not be surveyed nothing but its own rows may be known; an image that could not be searched
    # is an image of the archive like any other, and may have a thumbnail.
    for name in expected.keys() - {"failures"}:
        has_all = stage == "detect" and name in ("catalog", "micrographs")
        uris = set(guilty["uri"]) if stage == "survey" else set()
        tables = [workspaces.read_sorted_table(workspace, name), expected[name]]
        if not has_all:
            tables = [without(table, uris, guilty_ids) for table in tables]
        if stage == "survey" and "path" in tables[0].column_names:  # the archive without the guilty lies elsewhere
            tables = [table.drop_columns("path") for table in tables]
        unequal = workspaces.list_unequal_columns(name, *tables)
        broken += [f"of the innocent, other than without poison: {text}" for text in unequal]
    return broken, rows


def reference_of(reference: Path) -> dict[str, pa.Table]:
    return workspaces.read_tables(reference)


def poison(scratch: Path, archive: Path, stage: str, n_of_each: int, seed: int, options: list[str]) -> dict:
    """Run with and without poison in `stage`; figures, a row for every guilty image, and what was `broken`."""
    rng = random.Random(seed)
    nobody = pd.DataFrame({"content": [], "poison": []})
    clean = scratch / f"clean-{stage}"
    workspace = scratch / f"poisoned-{stage}"
    healthy = archive
    if stage == "survey":  # what the others are like when the guilty files do not exist
        guilty = guilty_files(archive, n_of_each, rng)
        healthy = scratch / "healthy"
        shutil.copytree(archive, healthy, copy_function=os.link)
        for uri in guilty["uri"]:
            (healthy / uri).unlink()
    before = start(healthy, clean, options, stage, nobody, 900)
    if before["exit_code"] not in (0, 2):
        said = workspaces.read_last_line(clean.with_suffix(".log"))
        raise RuntimeError(f"the run without poison ended with {before['exit_code']}: {said}")
    if stage == "detect":
        guilty = guilty_images(clean, n_of_each, rng)
    limit_s = 20 * before["seconds"] + 60 * len(guilty)
    ran = start(archive, workspace, options, stage, guilty, limit_s)
    figures = {"stage": stage, "guilty": len(guilty), "seconds_clean": before["seconds"], "seconds": ran["seconds"]}
    if ran["exit_code"] is None:
        return figures | {
            "rows": [],
            "broken": [f"not done after {limit_s:.0f} s ({workspaces.describe_progress(workspace)})"],
        }
    if ran["exit_code"] != 2:
        said = workspaces.read_last_line(workspace.with_suffix(".log"))
        return figures | {"rows": [], "broken": [f"ended with {ran['exit_code']}, not 2: {said}"]}
    broken, rows = check_laws(workspace, clean, stage, guilty)
    figures["half_written_files_left"] = len(workspaces.list_partial_files(workspace))
    longest = _longest(workspace) if stage == "detect" else FILES_PER_TASK
    most = before["looked"].total() + len(guilty) * (longest + TRIES)
    figures |= {
        "evaluations_clean": before["looked"].total(),
        "evaluations": ran["looked"].total(),
        "evaluations_allowed": most,
        "evaluations_of_guilty": sum(ran["looked"][content] for content in guilty["content"]),
        "tasks_clean": tasks(clean),
        "tasks": tasks(workspace),
    }
    if ran["looked"].total() > most:
        broken.append(f"{ran['looked'].total()} evaluations, over {most}")

    held = workspaces.list_parts(workspace)
    again = start(archive, workspace, options, stage, guilty, limit_s)
    figures |= {"seconds_again": again["seconds"], "evaluations_again": again["looked"].total()}
    if (again["exit_code"], again["looked"].total(), workspaces.list_parts(workspace)) != (2, 0, held):
        broken.append(f"a second run ended with {again['exit_code']} after {again['looked'].total()} evaluations")
    broken += _retried(workspace, clean) if stage == "detect" else []
    return figures | {"rows": rows, "broken": broken}


def _longest(workspace: Path) -> int:
    """Micrographs in the largest partition."""
    return int(workspaces.read_sorted_table(workspace, "micrographs").to_pandas()["partition"].value_counts().max())


def _retried(workspace: Path, clean: Path) -> list[str]:
    """Without the poison, what had failed is done after all, and everything is as it would have been."""
    command = [sys.executable, "-m", "emqa_dask", "retry", str(workspace), "--failed"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if ran.returncode != 0:
        return [f"emqa retry --failed ended with {ran.returncode}: {ran.stderr.strip()[-200:]}"]
    results = workspaces.list_differences(workspace, clean)
    return [f"after emqa retry --failed, other than without poison: {', '.join(results[:6])}"] if results else []


def show(figures: dict) -> None:
    stage = figures["stage"]
    print(f"\n{stage}: {figures['guilty']} guilty, {figures['seconds']} s ({figures['seconds_clean']} without poison)")
    for row in figures["rows"]:
        said = f"{row.get('stage')} {row.get('kind')}, {row.get('attempts')} attempts: {row.get('error')}"
        print(f"  {'ok ' if row['is_right'] else 'BAD'} {row['poison']:<8} {row['uri']:<44.44} {said[:150]}")
    if "evaluations" in figures:
        counts = [figures[key] for key in ("evaluations", "evaluations_clean", "evaluations_allowed")]
        print("  evaluations {} ({} without poison, {} allowed), ".format(*counts), end="")
        print(f"of the guilty {figures['evaluations_of_guilty']}, in a second run {figures['evaluations_again']}")
        print(f"  tasks without poison: {figures['tasks_clean']}\n  tasks: {figures['tasks']}")
    for text in figures["broken"]:
        print(f"  broken: {text}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=400, help="micrographs")
    parser.add_argument("--of-each", type=int, default=5, help="guilty ones of each of the four kinds")
    parser.add_argument("--stage", choices=("detect", "survey", "both"), default="both", help="where the poison acts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--timeout-s", type=float, default=5, help="run.timeout_s")
    parser.add_argument("--memory-gib", type=float, default=1.5, help="run.memory_gib")
    parser.add_argument("--keep", metavar="FOLDER", help="work there, and leave everything")
    parser.add_argument("--json", metavar="OUT", help="write the figures here")
    options = parser.parse_args()
    stages = ("detect", "survey") if options.stage == "both" else (options.stage,)
    settings = run_options(options.timeout_s, options.memory_gib)
    with tempfile.TemporaryDirectory() as temporary:
        scratch = Path(options.keep or temporary)
        archive = scratch / "archive"
        workspaces.write_archive(archive, options.n, options.seed)
        figures = []
        for stage in stages:
            figures.append(poison(scratch, archive, stage, options.of_each, options.seed, settings))
            show(figures[-1])
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    if options.json:
        results = {"micrographs": options.n, "seed": options.seed, "machine": machine, "stages": figures}
        Path(options.json).write_text(json.dumps(results, indent=2) + "\n")
    return 1 if any(of["broken"] for of in figures) else 0


def run_options(timeout_s: float, memory_gib: float, shard_length: int = 10) -> list[str]:
    """Options of `emqa triage` for two local workers with these limits."""
    changes = {"run.timeout_s": timeout_s, "run.memory_gib": memory_gib}
    changes |= {"store.shard_length": shard_length, "archive.files_per_task": FILES_PER_TASK}
    set_ = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    return ["--scheduler", "local", "--workers", "2", *set_]


if __name__ == "__main__":
    sys.exit(main())
