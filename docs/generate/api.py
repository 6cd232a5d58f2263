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
    # The sections that a class takes are in its docstring; their defaults would fill the line of its signature.
    is_class = inspect.isclass(getattr(emqa_dask, name))
    directive = f"autoclass:: emqa_dask.{name}()" if is_class else f"autofunction:: emqa_dask.{name}"
    return f"## {name}\n\n```{{eval-rst}}\n.. {directive}\n```\n"
