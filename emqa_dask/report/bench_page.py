"""The page of emqa bench: rates against workers, stages, the law of scaling and what an archive takes by it."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from emqa_dask.report.formatting import format_duration
from emqa_dask.report.html_tables import PAGE_END, STYLE, render_head, render_preformatted, render_table

WIDTH, HEIGHT = 560, 320  # of the plot, px
MARGIN = 48  # around its axes, px
HOUR_S = 3600.0
PLOT_STYLE = """.ideal{stroke:currentColor;stroke-dasharray:4 4;opacity:.6}.line{stroke:#2878c8}
.axis{stroke:currentColor}text{fill:currentColor;font-size:13px}circle{fill:#2878c8}polyline,line{fill:none}"""


def render_bench_page(document: Mapping[str, Any]) -> str:
    """HTML of a measurement, one file that loads nothing; `document` is what emqa bench writes as JSON."""
    summary = document["summary"]
    return "".join(
        [
            render_head("emqa bench", STYLE + PLOT_STYLE) + "<h1>Scaling of emqa triage</h1>",
            f"<p>{escape(str(document['source']))}, scheduler {escape(str(document['scheduler']))}</p>",
            draw_rates([row for row in summary["groups"] if row["scaling"] == "strong"]),
            render_table(
                "Measurements",
                ("Scaling", "Workers", "Images", "Time", "Images/s", "MP/s", "Efficiency", "Memory, MiB", "GPU"),
                (_list_cells(row) for row in summary["groups"]),
            ),
            f"<h2>Law</h2><p>{escape(format_law(summary['law']))}</p>",
            f"<h2>{summary['n_images']:,} images</h2>",
            render_table(
                "Time and price",
                ("Workers", "Time", "Price"),
                (
                    (f"{row['workers']:,}", format_duration(row["hours"] * HOUR_S), _format_price(row["price"]))
                    for row in summary["predictions"]
                ),
            ),
            "<h2>Stages, ms of a worker per megapixel</h2>",
            _make_stage_table(summary["groups"]),
            "<h2>Machine and versions</h2>",
            render_table(
                "Machine and versions", ("Name", "Value"), ({**document["machine"], **document["versions"]}).items()
            ),
            f"<h2>Settings</h2>{render_preformatted(document['settings'])}{PAGE_END}",
        ]
    )


def format_law(law: Mapping[str, float]) -> str:
    """A run.scaling.ScalingLaw in words; where no limit of disk or network was reached, none is stated."""
    per_worker = f"{1000 * law['compute_s']:.1f} ms / workers"
    if law["io_s"]:
        per_worker = f"the larger of {1000 * law['io_s']:.1f} ms and {per_worker}"
    times = f"{law['start_s']:.1f} s + images x ({1000 * law['shared_s']:.2f} ms + {per_worker})"
    return f"Time = {times}. The measurements deviate from it by {100 * law['error']:.1f} %."


def format_efficiency(row: Mapping[str, Any]) -> str:
    """The efficiency of a group of runs, with its interval where there is one."""
    ends = "" if row["efficiency_low"] is None else f" ({row['efficiency_low']:.2f} to {row['efficiency_high']:.2f})"
    return f"{row['efficiency']:.2f}{ends}"


def _format_price(price: float | None) -> str:
    return "" if price is None else f"{price:,.2f}"


def _list_cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield from (row["scaling"], f"{row['workers']:,}", f"{row['n_images']:,}", format_duration(row["seconds"]))
    yield from (f"{row['images_per_s']:.2f}", f"{row['megapixels_per_s']:.2f}")
    yield from (format_efficiency(row), f"{row['peak_memory_mib']:,.0f}")
    yield "not measured" if row["gpu_percent"] is None else f"{row['gpu_percent']:.0f} %"


def _make_stage_table(groups: Sequence[Mapping[str, Any]]) -> str:
    stages = list(dict.fromkeys(stage for row in groups for stage in row["stage_ms_per_megapixel"]))
    heads = ["Stage", *(f"{row['scaling']}, {row['workers']}" for row in groups)]
    cells = ((stage, *(f"{row['stage_ms_per_megapixel'].get(stage, 0.0):.1f}" for row in groups)) for stage in stages)
    return render_table("Stages", heads, cells)


def draw_rates(rows: Sequence[Mapping[str, Any]]) -> str:
    """SVG of images per second against workers, with the line that perfect scaling would have."""
    workers = [row["workers"] for row in rows]
    rates = [row["images_per_s"] for row in rows]
    per_worker = rates[0] / workers[0]
    highest = max(*rates, per_worker * max(workers))

    def place(x: float, y: float) -> str:
        x_px = MARGIN + (WIDTH - 2 * MARGIN) * x / max(workers)
        return f"{x_px:.1f},{HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * y / highest:.1f}"

    points = [place(x, y) for x, y in zip(workers, rates, strict=True)]
    circles = "".join(f'<circle cx="{x}" cy="{y}" r="4"/>' for x, y in (point.split(",") for point in points))
    ticks = "".join(
        f'<text x="{place(w, 0).split(",")[0]}" y="{HEIGHT - MARGIN + 18}" text-anchor="middle">{w}</text>'
        for w in workers
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Images per second against workers">'
        f'<polyline class="axis" points="{place(0, highest)} {place(0, 0)} {place(max(workers), 0)}"/>'
        f'<polyline class="ideal" points="{place(0, 0)} {place(max(workers), per_worker * max(workers))}"/>'
        f'<polyline class="line" points="{" ".join(points)}"/>{circles}{ticks}'
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">workers</text>'
        f'<text x="4" y="{MARGIN - 16}">images/s, up to {highest:.3g}; dashed: perfect scaling</text></svg>'
    )
