"""README.md: short, with commands that exist, names that exist, and the output that `make demo` has today."""

import ast
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import emqa_dask
from emqa_dask.cli.arguments import build_parser

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
MAKEFILE = (REPOSITORY / "Makefile").read_text()
N_FIRST = 2  # commands of the first step of the demo, whose output is the first block
TOLERANCE = 2  # images whose verdict may differ on another processor


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_fits_on_two_screens():
    assert len(README.splitlines()) <= 120
    assert len(README.split()) <= 900


def test_commands_of_the_readme_exist():
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    assert len(lines) >= 4
    for line in lines:
        program, *words = shlex.split(line, comments=True)
        if program == "make":
            assert re.search(rf"^{words[0]}:", MAKEFILE, re.M), line
        else:
            assert program == "emqa"
            build_parser().parse_args(words)


def test_python_of_the_readme_uses_exported_names():
    (code,) = blocks("python")
    names = {
        node.attr
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "emqa_dask"
    }
    assert names
    assert names <= set(emqa_dask.__all__)


def test_links_of_the_readme_lead_somewhere():
    targets = re.findall(r"\]\(([^)]+)\)", README)
    assert targets
    for target in targets:
        assert (REPOSITORY / target).exists(), target


def demo_commands() -> list[list[str]]:
    """The emqa commands of `make demo`."""
    recipe = re.search(r"^demo:.*?\n((?:\t.*\n)+)", MAKEFILE, re.M)[1]
    lines = [line.strip() for line in recipe.splitlines() if "$(BIN)/emqa" in line]
    return [shlex.split(line.replace("$(BIN)/emqa", "").replace("$(DEMO)", "demo")) for line in lines]


def mask(line: str) -> str:
    """`line` without what differs from run to run: seconds, rates, the port; counts of verdicts are compared apart."""
    line = re.sub(r":\d+/status", ":#/status", line)
    line = re.sub(r"[\d.]+ (s|min|h)\b|\b\d+:\d\d(:\d\d)?\b", "# s", line)
    return re.sub(r"[\d.,]+/s", "#/s", line)


def mask_numbers(line: str) -> str:
    """`line` without its numbers: fits and forests differ in their last digits on another processor."""
    return re.sub(r"\d[\d,.]*", "#", line)


@pytest.mark.real
def test_the_output_of_make_demo_is_current(tmp_path):
    first_lines: list[str] = []
    later_lines: list[str] = []
    for number, words in enumerate(demo_commands()):
        command = [sys.executable, "-m", "emqa_dask", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
        shown = [line for line in done.stderr.splitlines() if re.match("(survey|choose|triage): ", line)]
        lines = first_lines if number < N_FIRST else later_lines
        lines += done.stdout.splitlines() + shown
    first, later = (block.splitlines() for block in blocks("text")[:2])
    verdict = re.compile(r"  (\w+) +([\d,]+)")
    counts = {match[1]: int(match[2]) for line in first_lines if (match := verdict.match(line))}
    for line in first:
        if match := verdict.match(line):
            assert counts[match[1]] == pytest.approx(int(match[2]), abs=TOLERANCE), line
        else:
            assert mask(line) in {mask(other) for other in first_lines}, line
    for line in later:
        assert mask_numbers(line) in {mask_numbers(other) for other in later_lines}, line
