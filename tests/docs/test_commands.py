"""Every emqa command in the pages is one that the command line takes, and so is every setting in it."""

import re
import shlex
from pathlib import Path

import pytest

from emqa_dask.cli.arguments import build_parser
from emqa_dask.settings import RENAMED_KEYS, SECTIONS, Settings, load_settings

PAGES = Path(__file__).parents[2] / "docs"
COMMAND = re.compile(r"^(?:\w*\$ |; )?emqa (.+)$")


def list_commands() -> list[str]:
    """The emqa commands in blocks of console input, without comments."""
    found = []
    for path in sorted(PAGES.rglob("*.md")):
        if "_generated" in path.parts:
            continue
        for block in re.findall(r"```console\n(.*?)```", path.read_text(), re.DOTALL):
            lines = [COMMAND.match(line) for line in block.splitlines()]
            found += [match[1] for match in lines if match]
    return found


@pytest.mark.parametrize("command", list_commands())
def test_command_of_a_page_is_valid(command: str):
    words = shlex.split(command, comments=True)
    options = build_parser().parse_args(words)
    for text in getattr(options, "changes", []):
        section, key = text.partition("=")[0].split(".")[:2]  # a check has keys of its own
        assert hasattr(getattr(Settings(), section), key), text
    if getattr(options, "template", None):
        load_settings(template=options.template)


def test_pages_have_commands():
    assert len(list_commands()) > 20


def test_pages_name_present_settings_only():
    text = "".join(path.read_text() for path in PAGES.rglob("*.md") if "_generated" not in path.parts)
    text = text.replace((PAGES / "changelog.md").read_text(), "")
    named = set(re.findall(rf"\b((?:{'|'.join(SECTIONS)})\.\w+)=", text))
    assert named
    assert not named & set(RENAMED_KEYS)
