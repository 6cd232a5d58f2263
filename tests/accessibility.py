"""Faults of a page for people who use a keyboard or a screen reader, found by axe-core in the browser."""

from importlib.resources import files

IMPACTS = ("serious", "critical")


def list_serious_faults(page) -> list[tuple[str, list[str]]]:
    """Rule and first elements of each serious fault of a page of playwright; all its details are opened."""
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
    page.evaluate(files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8"))
    found = page.evaluate("axe.run({ preload: false })")  # preload would load the styles again
    return [
        (violation["id"], [node["html"][:200] for node in violation["nodes"][:3]])
        for violation in found["violations"]
        if violation["impact"] in IMPACTS
    ]
