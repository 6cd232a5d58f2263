"""The list of stages as a table: what each makes and needs, its version, and whether it reads pixels."""

from docs.generate.markdown import list_table
from emqa_dask.pipeline.workspace.stages import STAGES


def render_table() -> str:
    """A row per stage, in the order of a run."""
    header = ("stage", "command", "makes", "needs", "version", "reads pixels")
    rows = [
        (
            f"`{stage.name}`",
            f"[`emqa {stage.step}`](#cli-{stage.step})",
            ", ".join(f"[`{table}`](#table-{table})" for table in stage.tables),
            ", ".join(f"[`{table}`](#table-{table})" for table in stage.needs) or "files",
            str(stage.version),
            "yes" if stage.has_pixels else "no",
        )
        for stage in STAGES
    ]
    return list_table(header, rows)
