"""The options that most verbs share (settings, workers, models), and the settings that they give."""

import argparse
import ast
import os
import re
from collections.abc import Sequence

from emqa_dask.cli.machine import check_local
from emqa_dask.settings import Settings, SettingsError, load_settings, replace, template_names


def add_settings(parser: argparse.ArgumentParser, *, has_worker_counts: bool = False) -> None:
    """Options that give the settings; with `has_worker_counts` --workers takes several numbers, as `worker_counts`."""
    group = parser.add_argument_group("settings")
    group.add_argument(
        "--settings",
        metavar="FILE",
        help="a TOML file; WS/settings.toml shows every key, and where you have edited it, give it here once",
    )
    group.add_argument("--template", metavar="NAME", help=f"start from a use case: {', '.join(template_names())}")
    group.add_argument(
        "--set",
        metavar="SECTION.KEY=VALUE",
        action="append",
        default=[],
        dest="changes",
        help="change one setting, e.g. detect.threshold=0.2; may be given several times",
    )
    group.add_argument(
        "--scheduler",
        metavar="NAME",
        help="where the workers are: local (this machine), cuda (its GPUs), slurm, pbs, lsf, sge, htcondor, "
        "kubernetes, tcp://host:port or file:scheduler.json (a Dask scheduler that runs already), in-process "
        "(nowhere); most have a settings section",
    )
    group.add_argument(
        "--detector",
        metavar="NAME",
        action="append",
        default=[],
        dest="detectors",
        help="log, a bundled network by name (cavity-tem), or a model directory; several look side by side, and the "
        "verdict rests on the one that can be trusted more; auto: log or a bundled network for each session, from a "
        "first look at a few images",
    )
    group.add_argument(
        "--classifier",
        metavar="MODEL_DIR",
        help="an ensemble (emqa train ensemble) that says each image's class, how sure that is, and what is out of "
        "domain, in which way",
    )
    if has_worker_counts:
        counts_help = "numbers of worker processes to compare, default 1 2"
        group.add_argument(
            "--workers", metavar="N", type=int, nargs="+", default=[1, 2], dest="worker_counts", help=counts_help
        )
    else:
        group.add_argument(
            "--workers", metavar="N", type=int, help="worker processes; default: one per core, or per GPU"
        )


def parse_settings_changes(options: argparse.Namespace) -> dict[str, dict[str, object]]:
    """The settings that options change: section -> key -> value; SettingsError for a --set that is not one."""
    changes: dict[str, dict[str, object]] = {}
    for text in options.changes:
        key, equals, value = text.partition("=")
        section, separator, name = key.partition(".")
        if not (equals and separator):
            raise SettingsError(f"--set {text}: write it as section.key=value, e.g. detect.threshold=0.2")
        try:
            parsed = ast.literal_eval({"true": "True", "false": "False"}.get(value, value))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            parsed = value
        changes.setdefault(section, {})[name] = parsed
    verb = f"{options.verb} {getattr(options, 'kind', '')}".strip()
    if options.detectors and verb not in ("calibrate", "study f1"):
        changes.setdefault("detect", {})["detectors"] = options.detectors
    if options.classifier is not None:
        changes.setdefault("classify", {})["model"] = options.classifier
    for name in ("exclude", "include"):
        if getattr(options, name, None) is not None:
            changes.setdefault("archive", {})[name] = getattr(options, name)
    for name in ("scheduler", "workers"):
        if getattr(options, name, None) is not None:
            changes.setdefault("run", {})[name] = getattr(options, name)
    return changes


def read_settings(options: argparse.Namespace, workspace: str | None) -> Settings:
    """Explicit options over the workspace's own settings over the defaults."""
    if isinstance(options.settings, Settings):  # of a function of emqa_dask.verbs
        return replace(options.settings, parse_settings_changes(options), "options")
    if options.settings is None and options.template is None and workspace:
        from emqa_dask.store import (
            stored_settings,
        )

        return replace(stored_settings.read_settings(workspace), parse_settings_changes(options), "command line")
    return replace(load_settings(options.settings, options.template), parse_settings_changes(options), "command line")


def name_default_workspace(sources: Sequence[str]) -> str:
    """./<name of the archive>.emqa; the name is that of the folder, also for "." and "..", and not a hidden one.

    Of several sources it is that of the first in the alphabet, so that their order does not matter.
    """
    names = sorted(filter(None, map(_name_source, {s if "://" in s else os.path.abspath(s) for s in sources})))
    remainder = f"-and-{len(names) - 1}-more" if len(names) > 1 else ""
    return f"./{names[0] if names else 'archive'}{remainder}.emqa"


def _name_source(source: str) -> str:
    name = re.split("[?#]", source.rstrip("/").rpartition("/")[2])[0] if "://" in source else os.path.basename(source)
    return "".join(c if c.isprintable() else "_" for c in name).strip(". ").rstrip(":")


def warm_up_workers(settings: Settings, preload: tuple[str, ...]) -> None:
    """With workers on this machine: check that it can have them, and let them load their modules meanwhile."""
    if settings.run.scheduler == "local":
        from emqa_dask.run.cluster import count_cores, start_fork_server

        check_local(settings, count_cores())
        start_fork_server(preload)
