"""A drawing of an image's path from its file to its verdict, from the list of stages."""

import textwrap
from dataclasses import dataclass

from docs.generate import svg
from docs.generate.source import constant_comments
from emqa_dask import tables
from emqa_dask.pipeline.workspace.stages import TABLES, list_needed_tables

WIDTH_PX = 760
GAP_PX = 20
ROW_GAP_PX = 46
MAX_BOX_PX = 350


@dataclass(frozen=True)
class Node:
    """A table on the path; `stage` is the step that makes it, `sources` are the tables that it is made from."""

    table: str
    stage: str
    sources: tuple[str, ...]
    text: str


def list_nodes() -> list[Node]:
    """Every table on the path, each after its sources."""
    comments = constant_comments(tables)
    nodes = [
        Node("catalog", "ingest", (), comments["CATALOG"]),
        Node("micrographs", "ingest", ("catalog",), comments["MICROGRAPHS"]),
    ]
    for table, stage in TABLES.items():
        sources = list_needed_tables(table)
        nodes.append(Node(table, stage.step, sources or ("micrographs",), comments[table.upper()]))
    used = {source for node in nodes for source in node.sources}
    ends = tuple(node.table for node in nodes if node.table not in used)
    return [*nodes, Node("triage", "report", ends, comments["TRIAGE"])]


def first_sentence(text: str) -> str:
    """The first sentence of a description."""
    return text.split(". ")[0].rstrip(".") + "."


def find_depths(nodes: list[Node]) -> dict[str, int]:
    """Table -> length of the longest path that leads to it."""
    depths: dict[str, int] = {}
    for node in nodes:
        depths[node.table] = max((depths[source] + 1 for source in node.sources), default=0)
    return depths


def find_arrows(nodes: list[Node]) -> list[tuple[str, str]]:
    """Pairs (source, table) without those that follow from others: what a source is made from is needed anyway."""
    ancestors: dict[str, set[str]] = {}
    for node in nodes:
        ancestors[node.table] = set(node.sources).union(*(ancestors[source] for source in node.sources))
    return [
        (source, node.table)
        for node in nodes
        for source in node.sources
        if not any(source in ancestors[other] for other in node.sources)
    ]


def draw() -> str:
    """The drawing: a row per depth, a box per table, an arrow per dependency."""
    nodes = list_nodes()
    depths = find_depths(nodes)
    edges: dict[str, tuple[float, float, float]] = {}  # table -> x of the middle, y of the upper and lower edge
    parts = [svg.write_text(WIDTH_PX / 2, 24, "a file of the archive", "name", "middle")]
    parts.append(svg.draw_arrow(WIDTH_PX / 2, 32, WIDTH_PX / 2, 60))
    y = 60.0
    for depth in range(max(depths.values()) + 1):
        row = [node for node in nodes if depths[node.table] == depth]
        boxes, height = _draw_row(row, y, edges)
        parts += boxes
        y += height + ROW_GAP_PX
    parts += [_connect(edges[source], edges[table]) for source, table in find_arrows(nodes)]
    bottom = edges["triage"][2]
    parts.append(svg.draw_arrow(WIDTH_PX / 2, bottom, WIDTH_PX / 2, bottom + 28))
    parts.append(svg.write_text(WIDTH_PX / 2, bottom + 48, " | ".join(tables.VERDICTS), "name", "middle"))
    return svg.draw_frame(WIDTH_PX, bottom + 64, "Tables between a file and its verdict", parts)


def _connect(source: tuple[float, float, float], target: tuple[float, float, float]) -> str:
    return svg.draw_arrow(source[0], source[2], target[0], target[1])


def _draw_row(row: list[Node], y: float, edges: dict) -> tuple[list[str], float]:
    """The boxes of a row, whose places are added to `edges`, and the height of the row."""
    width = min(MAX_BOX_PX, (WIDTH_PX - GAP_PX * (len(row) + 1)) / len(row))
    left = (WIDTH_PX - len(row) * width - (len(row) - 1) * GAP_PX) / 2
    lines = [
        [f"step {node.stage}", *textwrap.wrap(first_sentence(node.text), svg.count_characters(width))] for node in row
    ]
    height = max(map(svg.box_height, lines))
    boxes = []
    for column, (node, own) in enumerate(zip(row, lines, strict=True)):
        x = left + column * (width + GAP_PX)
        boxes.append(svg.draw_box(x, y, width, height, node.table, own))
        edges[node.table] = (x + width / 2, y, y + height)
    return boxes, height
