"""What a person reads on the terminal: lines that show whatever they hold, and errors of one line with the remedy."""

import errno
import logging
import os
import sys
import traceback
import warnings

MAX_MESSAGE_CHARACTERS = 2000  # characters of an error's text
DISK_FULL_ADVICE = "free some space and run the same command again; what is finished is kept"
WRONG_PLACE_ADVICE = "restore it, or move it away, and run the same command again"
MISPLACED = {
    errno.EISDIR: "is a folder where a file should be",
    errno.ENOTDIR: "cannot be: a file is in the place of one of its folders",
    errno.EEXIST: "cannot be written: a file or a broken link is in the place of one of its folders",
    errno.ELOOP: "is a symbolic link that leads back to itself",
}
PERMISSION_ADVICE = "ask its owner, or copy it to where you may read and write"
EXPECTED = (ValueError, OSError, RuntimeError, ImportError)
NO_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "ProfileNotFound")
CREDENTIALS_ADVICE = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials; for a public bucket set "
    """FSSPEC_S3='{"anon": true}'"""
)


def say(text: str) -> None:
    """Print `text` as one line. Names of files come from anywhere, and a terminal obeys some characters."""
    from emqa_dask.uris import escape_controls  # `emqa --help` does without fsspec

    print(escape_controls(text), flush=True)


def say_error(text: str) -> None:
    """Print `text` as one line on stderr."""
    from emqa_dask.uris import escape_controls

    print(escape_controls(text), file=sys.stderr, flush=True)


def tell_error(error: BaseException, task_description: str) -> None:
    """Print `error` as one line on stderr; `task_description` is what was being done, to what."""
    from emqa_dask.uris import escape_controls, redact

    print(
        f"emqa: {escape_controls(redact(explain(error, task_description)))} (EMQA_TRACEBACK=1 shows where)",
        file=sys.stderr,
    )


def explain(error: BaseException, task_description: str) -> str:
    """What went wrong and what to do, in one line; `task_description` is what was being done, to what."""
    name = type(error).__name__
    text = " ".join(str(error).split())
    if len(text) > MAX_MESSAGE_CHARACTERS:
        text = f"{text[:MAX_MESSAGE_CHARACTERS]}..."
    if getattr(error, "errno", None) == errno.ENOSPC:
        return text if "free some space" in text else f"{text}: {DISK_FULL_ADVICE}"
    if isinstance(error, OSError) and error.filename and error.errno in MISPLACED:
        return f"{error.filename} {MISPLACED[error.errno]}: {WRONG_PLACE_ADVICE}"
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return f"{error.filename}: {error.strerror}; {PERMISSION_ADVICE}"
    if name in NO_CREDENTIALS or (isinstance(error, PermissionError) and not error.filename and "/" not in text):
        return f"{task_description}: S3 gave no access ({text}): {CREDENTIALS_ADVICE}"
    if isinstance(error, ModuleNotFoundError) and error.name and "install" not in text:
        return f"{task_description}: the package {error.name.partition('.')[0]} is not installed: install it with pip"
    if isinstance(error, MemoryError):
        remedy = "take fewer workers (--workers) or a larger machine"
        return f"{task_description}: not enough memory ({text or name}): {remedy}"
    if isinstance(error, EXPECTED) and not isinstance(error, RecursionError):
        return text if text and _is_raised_here(error) else f"{task_description}: {text or name}"
    package = type(error).__module__.partition(".")[0]
    if package not in ("builtins", "emqa_dask"):
        return f"{task_description}: {package} failed with {name}: {text}"
    return f"{task_description} failed with {name}: {text}; this is a fault of emqa_dask, please report it"


def _is_raised_here(error: BaseException) -> bool:
    """Was `error` raised by a function of this package, so that its text says all, and not by a library?"""
    frames = list(traceback.walk_tb(error.__traceback__))
    return not frames or frames[-1][0].f_globals.get("__name__", "").startswith("emqa_dask")


def quiet_libraries() -> None:
    """Keep what libraries warn of, and log, from the terminal, here and in processes that are started from here.

    EMQA_TRACEBACK, PYTHONWARNINGS and python -W show it.
    """
    if os.environ.get("EMQA_TRACEBACK") or sys.warnoptions:
        return
    warnings.simplefilter("ignore")
    os.environ["PYTHONWARNINGS"] = "ignore"
    logging.getLogger().addHandler(logging.NullHandler())
