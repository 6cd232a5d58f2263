"""The reference of the Python interface, from the docstrings of the names that emqa_dask exports."""

import inspect

import emqa_dask


def list_names() -> list[str]:
    """The exported functions and classes."""
    return [name for name in emqa_dask.__all__ if not name.startswith("__")]


def render_page() -> str:
    """A directive of autodoc for every exported name."""
    return "\n".join(_directive(name) for name in list_names())


def _directive(name: str) -> str:
    kind = "autoclass" if inspect.isclass(getattr(emqa_dask, name)) else "autofunction"
    return f"## {name}\n\n```{{eval-rst}}\n.. {kind}:: emqa_dask.{name}\n```\n"
