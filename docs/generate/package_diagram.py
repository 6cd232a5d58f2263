"""A drawing of the packages: the layers of import-linter, and what each package really imports."""

import ast
import re
import textwrap
import tomllib
from functools import cache
from pathlib import Path

from docs.generate import svg

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "emqa_dask"
WIDTH_PX = 760
BOXES_PER_ROW = 4
GAP_PX = 14


@cache
def read_layers(container: str = PACKAGE) -> list[list[str]]:
    """Names of the units of each layer of `container`, highest layer first, from the contracts of import-linter."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract["type"] == "layers" and contract.get("containers") == [container]:
            return [[name.strip("() ") for name in re.split(r"[|:]", layer)] for layer in contract["layers"]]
    return []


def find_imports(unit: str) -> set[str]:
    """The other units that the modules of `unit` import; a unit is named by its path, as "pipeline/tasks"."""
    folder = REPOSITORY / PACKAGE / unit
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            found |= {_find_unit(name) for name in _imported_names(node) if name.startswith(f"{PACKAGE}.")}
    return {name for name in found if name != "__version__" and name not in (unit, unit.split("/")[0])}


def _imported_names(node: ast.AST) -> list[str]:
    """Full names of what an import statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def _find_unit(name: str) -> str:
    """The unit that a full name belongs to."""
    parts = name.split(".")[1:]
    inner = [unit for layer in read_layers(f"{PACKAGE}.{parts[0]}") for unit in layer]
    return "/".join(parts[:2]) if len(parts) > 1 and parts[1] in inner else parts[0]


def list_bands() -> list[list[list[str]]]:
    """Every band of the drawing as rows of units: a layer, or the inner layers of its only package."""
    bands = []
    for layer in read_layers():
        inner = read_layers(f"{PACKAGE}.{layer[0]}") if len(layer) == 1 else []
        if inner:
            bands.append([[f"{layer[0]}/{unit}" for unit in row] for row in inner])
        elif layer != ["__main__"]:
            bands.append([layer[start : start + BOXES_PER_ROW] for start in range(0, len(layer), BOXES_PER_ROW)])
    return bands


def draw() -> str:
    """The drawing: a band per layer, a box per package with its imports."""
    parts: list[str] = []
    y = 10.0
    bands = list_bands()
    for number, rows in enumerate(bands):
        band, height = _draw_band(rows, y)
        parts.append(band)
        y += height
        if number + 1 < len(bands):
            parts.append(svg.draw_arrow(WIDTH_PX / 2, y - 4, WIDTH_PX / 2, y + 26))
            y += 30
    return svg.draw_frame(WIDTH_PX, y + 10, "Packages of emqa_dask in layers; imports point down", parts)


def _draw_band(rows: list[list[str]], y: float) -> tuple[str, float]:
    """A band of boxes whose upper edge is at `y`, and its height."""
    top = y
    parts = []
    y += GAP_PX
    for row in rows:
        width = (WIDTH_PX - 20 - GAP_PX * (len(row) + 1)) / len(row)
        lines = [_describe(unit, svg.count_characters(width)) for unit in row]
        height = max(map(svg.box_height, lines))
        for column, (unit, own) in enumerate(zip(row, lines, strict=True)):
            x = 10 + GAP_PX + column * (width + GAP_PX)
            parts.append(svg.draw_box(x, y, width, height, unit, own))
        y += height + GAP_PX
    band = f'<rect x="10" y="{top:g}" width="{WIDTH_PX - 20}" height="{y - top:g}" rx="8" class="band"/>'
    return "\n".join([band, *parts]), y - top


def _describe(unit: str, line_length: int) -> list[str]:
    """The small lines of a box: what the unit imports."""
    imports = ", ".join(sorted(find_imports(unit)))
    return textwrap.wrap(f"imports {imports}", line_length) if imports else []
