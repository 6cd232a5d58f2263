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
    value = getattr(emqa_dask, name)
    if not inspect.isclass(value):
        return f"## {name}\n\n```{{eval-rst}}\n.. autofunction:: emqa_dask.{name}\n```\n"
    methods = [key for key, member in vars(value).items() if key[0] != "_" and inspect.isfunction(member)]
    members = f"   :members: {', '.join(methods)}\n" if name == "Run" else ""
    return f"## {name}\n\n```{{eval-rst}}\n.. autoclass:: emqa_dask.{name}()\n{members}```\n"
