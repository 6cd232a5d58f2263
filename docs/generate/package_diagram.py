"""A drawing of the packages: the layers of import-linter, and what each package really imports."""

import ast
import re
import textwrap
import tomllib
from pathlib import Path

from docs.generate import svg

REPOSITORY = Path(__file__).parents[2]
PACKAGE = "emqa_dask"
WIDTH_PX = 760
BOXES_PER_ROW = 4
GAP_PX = 14


def read_layers(container: str = PACKAGE) -> list[list[str]]:
    """Names of the units of each layer of `container`, highest layer first, from the contracts of import-linter."""
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for contract in contracts:
        if contract["type"] == "layers" and contract.get("containers") == [container]:
            return [[name.strip("() ") for name in re.split(r"[|:]", layer)] for layer in contract["layers"]]
    return []


def find_imports(unit: str) -> set[str]:
    """The other units (packages or modules directly in emqa_dask) that the modules of `unit` import."""
    folder = REPOSITORY / PACKAGE / unit
    paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    found: set[str] = set()
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            found |= _imported(node)
    return found - {unit}


def _imported(node: ast.AST) -> set[str]:
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module == PACKAGE:
        names = [f"{PACKAGE}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [node.module]
    else:
        return set()
    return {name.split(".")[1] for name in names if name.startswith(f"{PACKAGE}.")} - {"__version__"}


def draw() -> str:
    """The drawing: a band per layer, a box per package with its imports."""
    parts: list[str] = []
    y = 10.0
    layers = [layer for layer in read_layers() if layer != ["__main__"]]
    for layer in layers:
        band, height = _draw_layer(layer, y)
        parts.append(band)
        y += height
        if layer is not layers[-1]:
            parts.append(svg.draw_arrow(WIDTH_PX / 2, y - 4, WIDTH_PX / 2, y + 26))
            y += 30
    return svg.draw_frame(WIDTH_PX, y + 10, "Packages of emqa_dask in layers; imports point down", parts)


def _draw_layer(layer: list[str], y: float) -> tuple[str, float]:
    """The band of a layer whose upper edge is at `y`, and its height."""
    top = y
    parts = []
    y += GAP_PX
    for start in range(0, len(layer), BOXES_PER_ROW):
        row = layer[start : start + BOXES_PER_ROW]
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
    """The small lines of a box: layers inside the package, and what it imports."""
    inside = [" | ".join(names) for names in read_layers(f"{PACKAGE}.{unit}")]
    imports = ", ".join(sorted(find_imports(unit)))
    lines = ["layers: " + " > ".join(inside)] if inside else []
    return lines + (textwrap.wrap(f"imports {imports}", line_length) if imports else [])
