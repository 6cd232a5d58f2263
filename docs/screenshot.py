"""Write docs/_static/report.png, the README's picture: python -m docs.screenshot REPORT.html

REPORT.html is the report of `make demo`, whose archive is synthetic.
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "_static" / "report.png"
WIDTH_PX = 1200
HEIGHT_PX = 900


def take_screenshot(report: Path) -> None:
    """Show `report` in Chromium and write its upper part as PNG."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH_PX, "height": HEIGHT_PX}, color_scheme="light")
        page.goto(report.absolute().as_uri())
        page.screenshot(path=PICTURE)
        browser.close()


if __name__ == "__main__":
    take_screenshot(Path(sys.argv[1]))
