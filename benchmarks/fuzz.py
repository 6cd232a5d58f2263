"""Damaged files of every format and damaged Zarr folders, triaged with LoG; exit 1 if a law is broken.

The laws: exit code 0 or 2; one row of the catalog and at least one of the triage for each file; no crash of a worker,
no traceback on the terminal, no stall; and no image with over 5 % wrong pixels is trusted where its format can tell:
where bytes under a checksum have changed, where libjpeg warns, where a chunk of a Zarr is lost. Such an image without a
word on its damage is counted as silent, whatever its verdict, and breaks a law, too.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from benchmarks import fuzz_changes, fuzz_seeds
from emqa_dask.archive.readers import read_micrograph

WRONG_SHARE = 0.05  # of an image's pixels
WRONG_BY = 0.03  # of its range
WORDS = ("Traceback", "leaked", "Fatal Python error", "Segmentation fault")


def write_files(folder: Path, n: int, rng: np.random.Generator, with_real: bool) -> dict[str, dict]:
    """`n` damaged files below `folder`; of each its kind, what was done, its true pixels, and whether it can tell."""
    kinds = list(fuzz_seeds.MAKERS)
    real = fuzz_seeds.real_seeds() if with_real else []
    truths = {}
    changes = list(fuzz_changes.CHANGES.items())
    folder.mkdir(parents=True)
    for k in range(n):
        if real and k % 6 == 5:
            seed = real[k // 6 % len(real)]
        else:
            seed = fuzz_seeds.make_seed(kinds[k % len(kinds)], folder, rng)
        name, change = changes[int(rng.integers(len(changes)))]
        other = real[int(rng.integers(len(real)))].data if real else seed.data[::-1]
        data = change(seed.data, other, rng)
        path = folder / f"{k:05d} {seed.kind}{seed.suffix}"
        path.write_bytes(data)
        if seed.suffix == ".emi":
            continue
        can_tell = fuzz_changes.touches(seed.data, data, seed.checked)
        if seed.suffix == ".jpg":
            can_tell = bool(libjpeg_words(data))
        truths[path.name] = {"kind": seed.kind, "change": name, "frames": seed.frames, "can_tell": can_tell}
    return truths


def write_zarrs(folder: Path, n: int, rng: np.random.Generator) -> dict[str, dict]:
    """`n` damaged Zarr folders below `folder`, as write_files()."""
    kinds = list(fuzz_seeds.ZARRS)
    changes = list(fuzz_changes.ZARR_CHANGES.items())
    truths = {}
    for k in range(n):
        kind = kinds[k % len(kinds)]
        path = folder / f"{k:05d} {kind}.zarr"
        frames = fuzz_seeds.make_zarr(kind, path, rng)
        name, change = changes[int(rng.integers(len(changes)))]
        before = len(fuzz_seeds.zarr_chunks(path))
        change(path, rng)
        can_tell = len(fuzz_seeds.zarr_chunks(path)) < before
        truths[path.name] = {"kind": kind, "change": name, "frames": frames, "can_tell": can_tell}
    return truths


def libjpeg_words(data: bytes) -> str:
    """What libjpeg prints of a JPEG while OpenCV decodes it."""
    with tempfile.TemporaryFile() as words:
        kept = os.dup(2)
        os.dup2(words.fileno(), 2)
        try:
            cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
        except cv2.error:
            return ""
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        words.seek(0)
        return words.read().decode(errors="replace")


def triage(archive: Path, workspace: Path, limit_s: float) -> dict:
    """Run `emqa triage` with LoG: exit code, seconds, its words, and the longest time without progress."""
    command = [sys.executable, "-m", "emqa_dask", "triage", str(archive), "--workspace", str(workspace)]
    command += ["--detector", "log"]
    started = time.monotonic()
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(run.stdout), daemon=True)
    reader.start()
    last = started
    longest = 0.0
    seen = -1
    while run.poll() is None and time.monotonic() - started < limit_s:
        n_seen = len(lines) + sum(len(names) for _, _, names in os.walk(workspace))
        now = time.monotonic()
        longest = max(longest, now - last)
        if n_seen != seen:
            last = now
            seen = n_seen
        time.sleep(0.2)
    is_over = run.poll() is not None
    if not is_over:
        run.kill()
        run.wait()
    reader.join(10)
    return {
        "exit_code": run.returncode if is_over else None,
        "seconds": time.monotonic() - started,
        "stall_s": longest,
        "words": "".join(lines),
    }


def wrong_share(path: Path, frame: int, truth: dict) -> float:
    """Share of the pixels of a damaged file that are not those of the whole one; 1 for another size, NaN unknown."""
    if truth["frames"] is None:
        return float("nan")
    if frame >= len(truth["frames"]):
        return 1.0
    expected = truth["frames"][frame].astype(float)
    try:
        with np.errstate(all="ignore"):
            results = read_micrograph(path, frame)[0].astype(float)
    except ValueError:
        return 1.0
    if results.shape != expected.shape:
        return 1.0
    limit = WRONG_BY * max(np.ptp(expected), 1)
    with np.errstate(invalid="ignore"):
        return float(np.mean(~(np.abs(results - expected) <= limit)))


def judge(archive: Path, workspace: Path, truths: dict[str, dict], run: dict, stall_s: float) -> tuple[dict, list[str]]:
    """The figures of one run, and a line for each time that a law was broken."""
    broken = [f"{word!r} on the terminal" for word in WORDS if word in run["words"]]
    if run["exit_code"] not in (0, 2):
        broken.append(f"exit code {run['exit_code']}: {run['words'][-500:]}")
    if run["stall_s"] > stall_s:
        broken.append(f"no progress for {run['stall_s']:.0f} s")
    if not (workspace / "triage.parquet").is_file():
        return {"files": len(truths)}, [*broken, "there is no triage.parquet"]
    catalog = pd.read_parquet(workspace / "catalog.parquet")
    micrographs = pd.read_parquet(workspace / "micrographs.parquet")
    rows = pd.read_parquet(workspace / "triage.parquet")
    counts = catalog["uri"].value_counts()
    for uri in truths:
        if counts.get(uri, 0) != 1:
            broken.append(f"{uri}: {counts.get(uri, 0)} rows in the catalog")
        if uri not in set(rows["uri"]):
            broken.append(f"{uri}: no row in the triage")
    reasons = catalog.loc[catalog["status"].eq("failed"), ["uri", "reason"]]
    died = catalog["error"].fillna("").str.contains("SIG|process ended|not done after")
    broken += [f"{row.uri}: {row.error}" for row in catalog[died].itertuples()]
    broken += [f"{row.uri}: failed without a reason" for row in reasons.itertuples() if not row.reason]
    verdicts = rows.set_index(["uri", "frame"])["verdict"]
    tally = Counter(catalog["status"])
    for row in micrographs.itertuples():
        truth = truths[row.uri]
        share = wrong_share(archive / row.uri, row.frame, truth)
        verdict = verdicts.get((row.uri, row.frame), "none")
        tally[f"verdict {verdict}"] += 1
        is_silent = pd.isna(row.damage)
        tally["with damage"] += not is_silent
        if not share > WRONG_SHARE:
            continue
        tally["over 5 % wrong"] += 1
        tally["over 5 % wrong, trusted"] += verdict == "trust"
        if is_silent and not truth["can_tell"]:
            tally["over 5 % wrong, its format cannot tell"] += 1
            tally[f"  of these {truth['kind']}, {truth['change']}{', trusted' * (verdict == 'trust')}"] += 1
        if truth["can_tell"] and (is_silent or verdict == "trust"):
            what = "trusted" if verdict == "trust" else "silent"
            broken.append(f"{row.uri} frame {row.frame}: {what}, {share:.0%} wrong, {truth['change']}")
    return {"files": len(truths), **tally, "seconds": run["seconds"], "longest stall s": run["stall_s"]}, broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=3000, help="damaged files (3000)")
    parser.add_argument("--zarrs", type=int, default=300, help="damaged Zarr folders (300)")
    parser.add_argument("--piece", type=int, default=600, help="files a run (600)")
    parser.add_argument("--seed", type=int, default=0, help="of the damage and the images (0)")
    parser.add_argument("--no-real", action="store_true", help="leave files of instruments in ../shared/data out")
    parser.add_argument("--stall", type=float, default=120.0, help="seconds without progress that are a stall (120)")
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that a run may take (3600)")
    parser.add_argument("--keep", type=Path, help="folder to keep archives and workspaces in")
    args = parser.parse_args()
    pieces = [min(args.piece, args.files - k) for k in range(0, args.files, args.piece)]
    total = Counter()
    broken = []
    root = args.keep or Path(tempfile.mkdtemp(prefix="emqa-fuzz-"))
    for number in range(max(len(pieces), 1)):
        rng = np.random.default_rng([args.seed, number])
        archive = root / f"archive{number}"
        workspace = root / f"workspace{number}"
        truths = write_files(archive, pieces[number] if pieces else 0, rng, not args.no_real)
        share = args.zarrs * (number + 1) // max(len(pieces), 1) - args.zarrs * number // max(len(pieces), 1)
        truths |= write_zarrs(archive, share, rng)
        run = triage(archive, workspace, args.limit)
        figures, wrongs = judge(archive, workspace, truths, run, args.stall)
        print(json.dumps({k: round(v, 1) for k, v in figures.items()}), flush=True)
        for line in wrongs:
            print(f"  BROKEN: {line}", flush=True)
        longest = max(total["longest stall s"], figures.pop("longest stall s", 0))
        total.update(figures)
        total["longest stall s"] = longest
        broken += wrongs
        if not args.keep:
            shutil.rmtree(archive)
            shutil.rmtree(workspace)
    print(f"\n{'':44}{'n':>10}")
    for name, n in total.items():
        print(f"{name:44}{n:>10.0f}")
    print(f"{'laws broken':44}{len(broken):>10}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
