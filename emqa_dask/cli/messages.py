"""What a person reads on the terminal: lines that show whatever they hold, and errors of one line with the remedy."""

import errno
import logging
import os
import sys
import warnings

LONGEST = 2000  # characters of an error's text
SPACE = "free some space and run the same command again; what is finished is kept"
CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials; for a public bucket set "
    """FSSPEC_S3='{"anon": true}'"""
)


def say(text: str) -> None:
    """Print `text` as one line. Names of files come from anywhere, and a terminal obeys some characters."""
    from emqa_dask.uris import printable  # `emqa --help` does without fsspec

    print(printable(text), flush=True)


def tell_error(error: BaseException, verb: str) -> None:
    """Print `error` as one line on stderr."""
    from emqa_dask.uris import printable, redact

    print(f"emqa: {printable(redact(explain(error, verb)))} (EMQA_TRACEBACK=1 shows where)", file=sys.stderr)


def explain(error: BaseException, verb: str) -> str:
    """What went wrong and what to do, in one line; `verb` is what was being done."""
    name = type(error).__name__
    package = type(error).__module__.partition(".")[0]
    text = " ".join(str(error).split())
    if len(text) > LONGEST:
        text = f"{text[:LONGEST]}..."
    if getattr(error, "errno", None) == errno.ENOSPC:
        return text if "free some space" in text else f"{text}: {SPACE}"
    if name in ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound"):
        return f"{verb}: S3 gave no access ({text}): {CREDENTIALS}"
    if isinstance(error, PermissionError) and not error.filename and ":" not in text:  # of a bucket
        return f"{verb}: no access to the bucket ({text}): {CREDENTIALS}"
    if isinstance(error, ModuleNotFoundError) and error.name and "install" not in text:
        return f"{verb}: the package {error.name.partition('.')[0]} is not installed: install it with pip"
    if isinstance(error, MemoryError):
        return f"{verb}: not enough memory ({text or name}): take fewer workers (--workers) or a larger machine"
    if isinstance(error, ValueError | OSError | RuntimeError | ImportError) and not isinstance(error, RecursionError):
        return text or f"{verb}: {name}"
    if package not in ("builtins", "emqa_dask"):
        return f"{verb}: {package} failed with {name}: {text}"
    return f"{verb} failed with {name}: {text}; this is a fault of emqa_dask, please report it"


def quiet_libraries() -> None:
    """Keep what libraries warn of, and log, from the terminal, here and in processes that are started from here.

    EMQA_TRACEBACK, PYTHONWARNINGS and python -W show it.
    """
    if os.environ.get("EMQA_TRACEBACK") or sys.warnoptions:
        return
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.getLogger().addHandler(logging.NullHandler())
