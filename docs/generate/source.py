"""What the source text of a module says beside its code: comments after and above a statement."""

import ast
import importlib
import inspect
import io
import pkgutil
import tokenize
from types import ModuleType


def read_comments(text: str) -> dict[int, str]:
    """Line number -> comment without its hash, for every line of `text` with a comment."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}


def comments_above(text: str, first_line: int) -> str:
    """The comment in the lines directly above `first_line`; "" without one."""
    lines = text.splitlines()
    found: list[str] = []
    number = first_line - 1
    while number >= 1 and lines[number - 1].lstrip().startswith("#"):
        found.insert(0, lines[number - 1].strip().lstrip("# "))
        number -= 1
    return " ".join(found)


def field_comments(record: type) -> dict[str, str]:
    """Name of a field -> comment after it or, without one, above it, for a dataclass and the dataclasses it extends."""
    found = {}
    for base in reversed(record.__mro__[:-1]):
        found |= _own_field_comments(base)
    return found


def _own_field_comments(record: type) -> dict[str, str]:
    module = inspect.getmodule(record)
    assert module is not None
    text = inspect.getsource(module)
    comments = read_comments(text)
    found = {}
    for node in _class_node(text, record.__name__).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            last_line = node.end_lineno or node.lineno
            after = " ".join(comments[line] for line in range(node.lineno, last_line + 1) if line in comments)
            found[node.target.id] = after or comments_above(text, node.lineno)
    return found


def _class_node(text: str, name: str) -> ast.ClassDef:
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef) and node.name == name]
    return nodes[0]


def constant_comments(module: ModuleType) -> dict[str, str]:
    """Name of a module-level constant -> comment above its assignment; of a package, for all modules in it."""
    found = {}
    for child in pkgutil.iter_modules(getattr(module, "__path__", ())):
        found |= constant_comments(importlib.import_module(f"{module.__name__}.{child.name}"))
    text = inspect.getsource(module)
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            found[node.targets[0].id] = comments_above(text, node.lineno)
    return found
