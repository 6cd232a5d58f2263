"""The pages of cluster/: their numbers follow from their own rates, and they speak of every file and of no other."""

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


def test_costs_follow_from_the_rates():
    rates = {stage: int(ms) for stage, ms in table("stage")}
    total = rates.pop("all")
    assert total == sum(rates.values())
    assert f"x {total} / 3,600,000" in CLOUD
    assert f"{rates['detect']} of the {total} ms" in CLOUD
    price = float(re.search(r"replaced by yours: ([0-9.]+)", CLOUD).group(1))
    for size, megapixels, hours, cost, gigabytes, minutes in table("px"):
        height, width = map(int, size.split(" x "))
        of_image = height * width / 1e6
        core_hours = 1000 * of_image * total / 3_600_000
        expected = of_image, core_hours, core_hours * price, 2 * of_image, 60 * core_hours / 16
        said = megapixels, hours, cost, gigabytes, minutes
        for text, value in zip(said, expected, strict=True):
            decimals = len(text.partition(".")[2])
            assert text == f"{value:.{decimals}f}", size
    partitions = 1000 * 4096 * 4096 * 2 / (256 * 2**20)
    (n,) = map(int, re.findall(r"1,000 images of 4096 x 4096 px make some (\d+)", CLOUD))
    assert n == pytest.approx(5 * partitions, rel=0.15)


def test_the_readme_speaks_of_every_file_and_of_no_other():
    files = {path.relative_to(CLUSTER).as_posix() for path in CLUSTER.rglob("*") if path.is_file()} - {"README.md"}
    text = (CLUSTER / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(files)


@pytest.mark.parametrize("page", sorted(CLUSTER.glob("*.md")), ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target
