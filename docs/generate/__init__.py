"""Pages that are generated from the code: write_pages() writes them before Sphinx reads its sources."""

from pathlib import Path

from docs.generate import (
    api,
    cli,
    columns,
    formats,
    package_diagram,
    packages,
    path_diagram,
    results,
    settings,
    stage_table,
    verdicts,
)


def write_pages(folder: Path) -> list[Path]:
    """Paths of all generated pages and drawings; a file whose content is the same is not written again."""
    pages = {
        "cli.md": cli.render_page(),
        "settings.md": settings.render_page(),
        "columns.md": columns.render_page(),
        "formats.md": formats.render_page(),
        "verdicts.md": verdicts.render_page(),
        "results.md": results.render_page(),
        "api.md": api.render_page(),
        "stages.md": stage_table.render_table(),
        "package-table.md": packages.render_table(),
        "packages.svg": package_diagram.draw(),
        "path.svg": path_diagram.draw(),
    }
    pages |= {f"packages/{name}.md": text for name, text in packages.render_pages().items()}
    paths = []
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
        paths.append(path)
    for stale in set((folder / "packages").glob("*.md")) - set(paths):
        stale.unlink()
    return paths
