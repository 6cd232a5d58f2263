"""Members of an ensemble evaluated together: a loop, vmap over stacked weights, grouped convolutions; and MC dropout.

python -m benchmarks.bench_ensemble                       16 wide ResNets, windows of 64 px, one thread
python -m benchmarks.bench_ensemble --device cuda --batch 1024
python -m benchmarks.bench_ensemble --threads 2 --members 4 --json FILE

All ways see the same windows in turns; each figure is the fastest of its rounds, in windows a second through all
members. On the CPU of processor time, so that other work on the machine does not count (`--wall` for wall time).
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch

from emqa_dask import classifiers
from emqa_dask.classify.evaluation import EVALUATION_METHODS, make_evaluator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--batch", type=int, default=64, help="windows that go through at once")
    parser.add_argument("--size", type=int, default=64, help="side of a window, px")
    parser.add_argument("--classes", type=int, default=30)
    parser.add_argument("--backbone", default=classifiers.WIDE_RESNET)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--wall", action="store_true", help="wall time on the CPU too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    told = {"n_classes": options.classes, "backbone": options.backbone}
    nets = [classifiers.build_classifier(told).to(options.device) for _ in range(options.members)]
    wet = classifiers.build_classifier({**told, "dropout": 0.3}).to(options.device)
    images = torch.rand(options.batch, 1, options.size, options.size, device=options.device)
    ways = {}
    failed = {}
    for way in EVALUATION_METHODS:
        try:
            ways[way] = make_evaluator(nets, way)
        except ValueError as error:
            failed[way] = str(error)
    alone = make_evaluator([wet], "loop")

    def passes(x):
        for number in range(options.members):
            classifiers.set_dropout_pass(wet, 0, number)
            results = alone(x)
        return results

    single = make_evaluator(nets[:1], "loop")
    ways |= {f"{options.members} passes of MC dropout": passes, "one network": single}
    clock = time.perf_counter if options.wall or options.device == "cuda" else time.process_time
    with torch.inference_mode():
        reference = ways["loop"](images)[0]
        off = {way: float((ways[way](images)[0] - reference).abs().max()) for way in EVALUATION_METHODS if way in ways}
        times = measured(ways, images, options.rounds, clock)
    results = {
        "machine": torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or "CPU",
        "torch": torch.__version__,
        "settings": {key: str(value) for key, value in vars(options).items()},
        "windows_per_s": {way: round(options.batch / seconds, 2) for way, seconds in times.items()},
        "speed_against_loop": {way: round(times["loop"] / seconds, 3) for way, seconds in times.items()},
        "largest_difference_to_loop": off,
        "cannot": failed,
    }
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


def measured(ways: dict[str, Callable], images, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Seconds of the fastest of `rounds`, the ways in turns."""
    results = dict.fromkeys(ways, float("inf"))
    for way in ways.values():
        way(images)
    for _ in range(rounds):
        for name, way in ways.items():
            _wait(images)
            began = clock()
            way(images)
            _wait(images)
            results[name] = min(results[name], clock() - began)
    return results


def _wait(images) -> None:
    if images.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
