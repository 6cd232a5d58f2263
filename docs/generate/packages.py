"""Pages about the packages: what each holds, its modules and their functions, read with ast without importing them."""

import ast
from pathlib import Path

from docs.generate.markdown import escape, list_table

ROOT = Path(__file__).parents[2] / "emqa_dask"


def list_packages() -> dict[str, Path]:
    """Name -> folder of every package, nested ones as pipeline.tasks, without those that hold data only."""
    folders = sorted(path.parent for path in ROOT.rglob("__init__.py") if path.parent != ROOT)
    return {".".join(folder.relative_to(ROOT).parts): folder for folder in folders}


def list_modules(folder: Path) -> list[Path]:
    """The modules of a package, __init__ first."""
    return sorted(folder.glob("*.py"), key=lambda path: (path.stem != "__init__", path.stem))


def first_line(path: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").split("\n")[0]


def list_public(path: Path) -> list[tuple[str, str]]:
    """Name and first docstring line of every public function and class that a module defines."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append((node.name, (ast.get_docstring(node) or "").split("\n")[0]))
    return found


def render_table() -> str:
    """The packages with the first line of their docstrings, and the shared modules."""
    rows = [
        (f"[`{name}`](#package-{name.replace('.', '-')})", escape(first_line(folder / "__init__.py")))
        for name, folder in list_packages().items()
    ]
    shared = [(f"`{path.stem}`", escape(first_line(path))) for path in list_modules(ROOT) if "__" not in path.stem]
    tables = [
        list_table(("package", "contents"), rows, "reasons"),
        list_table(("module", "contents"), shared, "reasons"),
    ]
    return "## Contents of the packages\n\n" + tables[0] + "\n## Shared modules\n\n" + tables[1]


def render_pages() -> dict[str, str]:
    """Name of a package -> its page."""
    return {name: _page(name, folder) for name, folder in list_packages().items()}


def _page(name: str, folder: Path) -> str:
    head = f"(package-{name.replace('.', '-')})=\n# {name}\n\n{escape(first_line(folder / '__init__.py'))}\n"
    modules = [path for path in list_modules(folder) if path.stem != "__init__" or list_public(path)]
    return "\n".join([head, *map(_module, modules)])


def _module(path: Path) -> str:
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    paragraphs = [escape(" ".join(paragraph.split())) for paragraph in doc.split("\n\n")]
    rows = [(f"`{name}`", escape(text)) for name, text in list_public(path)]
    table = list_table(("name", "contents"), rows, "reasons") if rows else ""
    return "\n\n".join([f"## {path.stem if path.stem != '__init__' else path.parent.name}", *paragraphs, table]) + "\n"
