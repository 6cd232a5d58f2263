"""The parser of the command line: every verb, each with the function that runs it as `options.run`."""

import argparse
import sys

from emqa_dask import __version__
from emqa_dask.cli import (
    bench_verb,
    ensemble_verb,
    exchange_verbs,
    machine_verbs,
    measure_verbs,
    model_verbs,
    review_verbs,
    run_verbs,
    study_verbs,
    tune_verbs,
)

DESCRIPTION = """Triage an archive of electron micrographs: which images can be trusted to a detector, which need a
person, which are outside what the detector knows, which are junk. One row, one verdict and a reason for every file."""
EPILOG = """examples:
  emqa triage /data/session --template cavity-tem      everything; the report is in ./session.emqa/report/
  emqa triage /data/session --dry-run                  what there is, and what it would cost
  emqa triage files.txt --exclude thumbs/              the files of a list, but for those in folders "thumbs"
  emqa triage /data/mon s3://bucket/tue --workspace ws     several sources as one archive
  emqa triage /data/session --scheduler slurm --settings slurm.toml     on a cluster, see cluster/README.md
  emqa status session.emqa --watch                     how far a run is
  emqa retry session.emqa --failed                     try again what failed
  emqa verify session.emqa                             is every stored byte as it was written?
  emqa report session.emqa --set triage.trust_f1=0.8   a stricter verdict; no pixel is read again
  emqa synthesise demo --profile demo --n 60 --seed 1  an archive with known answers

exit codes: 0 all ok; 2 finished, but some files failed (failures.parquet says why); 1 fatal; 130 interrupted (run the
same command again to go on)"""


class _Parser(argparse.ArgumentParser):
    """argparse leaves with 2 on a wrong command line; here 2 means finished with failures, so a usage error is 1."""

    def error(self, message: str):
        self.print_usage(sys.stderr)
        from emqa_dask.uris import escape_controls

        self.exit(1, f"{self.prog}: {escape_controls(message)}; `{self.prog} --help` explains\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `emqa`; what it parses has the verb's function as `run`."""
    parser = _Parser(
        "emqa", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"emqa_dask {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    run_verbs.add_triage(verbs)
    run_verbs.add_watch(verbs)
    run_verbs.add_steps(verbs)
    run_verbs.add_status(verbs)
    run_verbs.add_verify(verbs)
    run_verbs.add_retry(verbs)
    machine_verbs.add_synthesise(verbs)
    machine_verbs.add_certificates(verbs)
    machine_verbs.add_doctor(verbs)
    bench_verb.add_bench(verbs)
    tune_verbs.add_tune(verbs)
    review_verbs.add_review(verbs)
    measure_verbs.add_estimate(verbs)
    model_verbs.add_calibrate(verbs)
    model_verbs.add_rescore(verbs)
    train_kinds = model_verbs.add_train(verbs)
    ensemble_verb.add_train_ensemble(train_kinds)
    model_verbs.add_import(verbs)
    study_verbs.add_study(verbs)
    exchange_verbs.add_export(verbs)
    exchange_verbs.add_list(verbs)
    return parser
