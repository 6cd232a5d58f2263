"""emqa <verb>: parse, call, print. Exit codes: 0 all ok, 2 finished with failures, 1 fatal, 130 interrupted."""

import argparse
import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Sequence

from emqa_dask.cli.arguments import build_parser
from emqa_dask.cli.messages import quiet_libraries, tell_error

LEAVE_S = 8.0  # that closing the workers may take once a run is told to stop


def _stop_on_signals() -> None:
    """Ctrl-C and SIGTERM (a batch system's walltime) both stop cleanly; the second one, or LEAVE_S later, at once."""

    def stop(*_) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: os._exit(130))
        clock = threading.Timer(LEAVE_S, os._exit, (130,))
        clock.daemon = True
        clock.start()
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def script() -> int:
    """main() as a process of its own, whose exit code no signal in the interpreter's last moments changes.

    The process ends after its exit functions: the interpreter would free every object of a run for another half second.
    """
    exit_codes: list[int] = []
    atexit.register(_end_process, exit_codes)  # the first one, so that it is called after all others
    quiet_libraries()
    exit_codes.append(main())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # Python gives its own handlers up before it ends
    return exit_codes[0]


def _end_process(exit_codes: Sequence[int]) -> None:
    """End this process with the exit code in `exit_codes`; without one, as by an error, Python ends it."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed one
            stream.flush()
    if exit_codes:
        os._exit(exit_codes[0])


def _describe_task(options: argparse.Namespace) -> str:
    """What the command line asks for, in a few words: the verb, its kind, and what it is done to."""
    names = ("sources", "source", "checkpoint", "labels", "workspace", "out")
    values = [getattr(options, name, None) for name in names]
    subjects = [value[0] if isinstance(value, list) and value else value for value in values]
    parts = [options.verb, getattr(options, "kind", None), next(filter(None, subjects), None)]
    return " ".join(filter(None, parts))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Every error is one line on stderr, with the remedy."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 shows what it can
    options = build_parser().parse_args(arguments)
    if threading.current_thread() is threading.main_thread():
        _stop_on_signals()
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("emqa: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if os.environ.get("EMQA_TRACEBACK"):
            raise
        tell_error(error, _describe_task(options))
        return 1
