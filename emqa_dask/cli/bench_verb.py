"""emqa bench."""

import argparse
from pathlib import Path

from emqa_dask.cli.messages import say
from emqa_dask.cli.options import add_settings, read_settings, warm_up_workers
from emqa_dask.settings import SettingsError

EXAMPLES = """examples:
  emqa bench /data/session --workers 1 2 4 8 --for-images 1000000 --deadline-hours 8
  emqa bench --synthetic 64 --workers 1 2 --detector log
  emqa bench /shared/session --scheduler slurm --settings slurm.toml --workers 4 8 16 --price-per-worker-hour 0.05
  emqa bench --compare before.json after.json"""


def add_bench(verbs) -> None:
    """`emqa bench`."""
    bench = verbs.add_parser(
        "bench",
        help="measure the scaling on a sample of an archive: what more workers give, hours and price of an archive",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="""Triage a sample of SRC with several numbers of workers, round after round: all of it with each
(strong scaling), and parts in proportion to the workers (weak scaling). Writes the times, the efficiency with its
confidence interval, a law of scaling, and what an archive takes by it, as JSON and as a page.""",
        epilog=EXAMPLES,
    )
    bench.add_argument("source", metavar="SRC", nargs="?", default="", help="an archive; not with --synthetic")
    bench.add_argument("--synthetic", metavar="N", type=int, help="draw N micrographs of 1024 x 1024 px instead")
    bench.add_argument("--out", metavar="FILE", default="bench.json", help="default: bench.json")
    bench.add_argument("--rounds", metavar="N", type=int, default=3, help="measurements of each, default 3")
    bench.add_argument("--files", metavar="N", type=int, default=64, help="size of the sample of SRC, default 64")
    bench.add_argument("--seed", metavar="S", type=int, default=0, help="same seed, same sample; default 0")
    bench.add_argument(
        "--for-images", metavar="N", type=int, default=1_000_000, help="archive to predict, default 1000000 images"
    )
    bench.add_argument(
        "--deadline-hours", metavar="H", type=float, default=24.0, help="within which it shall be done, default 24"
    )
    bench.add_argument("--price-per-worker-hour", metavar="X", type=float, help="in any currency; default: no price")
    bench.add_argument("--compare", metavar="FILE", nargs=2, help="compare two measurements instead of measuring")
    add_settings(bench, has_worker_counts=True)
    bench.set_defaults(run=run_bench)


def run_bench(options: argparse.Namespace) -> int:
    """A measurement, or the comparison of two."""
    if options.compare:
        return _compare(options.compare)
    from emqa_dask.pipeline import PRELOAD
    from emqa_dask.pipeline.commands.bench import BenchOptions, bench, check_out

    if bool(options.source) == (options.synthetic is not None):
        raise SettingsError("give an archive, or --synthetic N to draw one")
    bench_options = BenchOptions(
        workers=tuple(options.worker_counts),
        rounds=options.rounds,
        n_files=options.files if options.synthetic is None else options.synthetic,
        seed=options.seed,
        for_images=options.for_images,
        deadline_hours=options.deadline_hours,
        price_per_worker_hour=options.price_per_worker_hour,
    )
    bench_options.check()
    check_out(Path(options.out))
    settings = read_settings(options, None)
    warm_up_workers(settings, PRELOAD)
    bench(options.source, options.out, settings, bench_options, say)
    return 0


def _compare(paths: list[str]) -> int:
    import json

    from emqa_dask.pipeline.commands.bench import is_measurement
    from emqa_dask.pipeline.commands.bench_summary import compare_measurements

    for path in paths:
        if not is_measurement(Path(path)):
            raise ValueError(f"{path} is no measurement of emqa bench")
    for line in compare_measurements(*(json.loads(Path(path).read_text("utf-8")) for path in paths)):
        say(line)
    return 0
