"""Number of operations that a function takes: what tests of cost count instead of seconds."""

import sys
from collections.abc import Callable
from typing import Any


def count_calls(function: Callable, *args: Any, **kwargs: Any) -> tuple[Any, int]:
    """Result of `function`, and the number of calls of Python functions and of built-in ones that it made."""
    n_calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal n_calls
        n_calls += event in ("call", "c_call")

    profile = sys.getprofile()
    sys.setprofile(count)
    try:
        result = function(*args, **kwargs)
    finally:
        sys.setprofile(profile)
    return result, n_calls
