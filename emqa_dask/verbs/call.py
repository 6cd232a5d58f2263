"""What a verb of the command line runs, with options as values instead of text."""

import argparse
from collections.abc import Callable
from typing import Any

from emqa_dask.settings import Settings

# Options that change single settings; in Python, settings are one value.
NO_CHANGES = {"template": None, "changes": [], "classifier": None, "scheduler": None, "workers": None}


def call_verb(
    run_verb: Callable[[argparse.Namespace], int],
    verb: str,
    *,
    settings: Settings | None = None,
    **options: Any,
) -> int:
    """Exit code of a verb: 0, or 2 when something failed. `options` have the names of the parser's destinations.

    Without `settings`, those of the workspace, or the defaults where there is none.
    """
    values = {"detectors": [], **NO_CHANGES, **options, "settings": settings, "verb": verb}
    return run_verb(argparse.Namespace(**values))


def list_texts(values: Any) -> list[str]:
    """One text or path, or several, as a list of texts."""
    return [str(values)] if isinstance(values, str) or not hasattr(values, "__iter__") else [str(v) for v in values]
