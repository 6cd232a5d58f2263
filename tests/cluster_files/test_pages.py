"""The pages of cluster/: their numbers are right, and they speak of every file and of no other."""

import re

import pytest

from tests.cluster_files.files import CLUSTER

CLOUD = (CLUSTER / "cloud.md").read_text()


def table(header: str) -> list[list[str]]:
    """Cells of the rows under the row that starts with `header`."""
    lines = CLOUD.splitlines()
    (start,) = [n for n, line in enumerate(lines) if line.startswith(f"| {header} |")]
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip(" *") for cell in line.strip("|").split("|")])
    return rows


def test_gigabytes_follow_from_the_shape():
    for size, megapixels, gigabytes in table("px"):
        height, width = map(int, size.split(" x "))
        assert megapixels == f"{height * width / 1e6:.1f}", size
        assert gigabytes == f"{2 * 1000 * height * width / 1e9:.1f}", size


def test_the_readme_speaks_of_every_file_and_of_no_other():
    files = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()} - {"README.md"}
    text = (CLUSTER / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(files)


@pytest.mark.parametrize("page", sorted(CLUSTER.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
