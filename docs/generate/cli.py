"""The reference of the command line, from the parsers: every verb, argument, option and example."""

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager

from docs.generate.markdown import code_block, escape
from emqa_dask.cli.arguments import build_parser

COLUMNS = "78"  # width of usage lines
SHARED_GROUP = "settings"  # the options that most verbs share


@contextmanager
def fixed_width() -> Iterator[None]:
    """argparse breaks its lines at COLUMNS, whatever the terminal."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = COLUMNS
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


def list_verbs(whole: argparse.ArgumentParser | None = None) -> dict[str, argparse.ArgumentParser]:
    """Name of a verb, with its kind if it has kinds ("tune log") -> its parser."""
    found = {}
    for name, child in _children(whole or build_parser()).items():
        found[name] = child
        found |= {f"{name} {kind}": own for kind, own in _children(child).items()}
    return found


def _subparsers(own: argparse.ArgumentParser) -> argparse._SubParsersAction | None:
    return next((action for action in own._actions if isinstance(action, argparse._SubParsersAction)), None)


def _children(own: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    action = _subparsers(own)
    return dict(action.choices) if action else {}


def render_page() -> str:
    """The page: general description, shared options, and a section per verb."""
    whole = build_parser()
    verbs = list_verbs(whole)
    with fixed_width():
        parts = [_text(whole.description or ""), _summary(whole), _text(whole.epilog or ""), _shared_options(verbs)]
        parts += [_verb_section(name, own) for name, own in verbs.items()]
    return "\n".join(parts)


def _summary(whole: argparse.ArgumentParser) -> str:
    action = _subparsers(whole)
    assert action is not None
    rows = [
        f"[`emqa {choice.dest}`](#{_label(choice.dest)})\n: {escape(choice.help or '')}\n"
        for choice in action._choices_actions
    ]
    return "\n".join(rows)


def _label(verb: str) -> str:
    return "cli-" + verb.replace(" ", "-")


def _shared_options(verbs: dict[str, argparse.ArgumentParser]) -> str:
    group = _group(verbs["triage"], SHARED_GROUP)
    intro = "Most verbs take these options. What they set is kept in the workspace and holds for later runs.\n"
    head = f"(cli-settings)=\n## Options of settings\n\n{intro}\n:::{{program}} emqa\n:::\n"
    return "\n".join([head, *map(_option, group._group_actions if group else [])])


def _group(own: argparse.ArgumentParser, title: str) -> argparse._ArgumentGroup | None:
    return next((group for group in own._action_groups if group.title == title), None)


def _verb_section(name: str, own: argparse.ArgumentParser) -> str:
    level = "##" if " " not in name else "###"
    parts = [f"({_label(name)})=\n{level} `emqa {name}`\n", _text(own.description or "")]
    prefix = "usage: "
    parts.append(code_block(own.format_usage().removeprefix(prefix).replace("\n" + " " * len(prefix), "\n")))
    parts.append(f":::{{program}} emqa {name}\n:::\n")
    shared = _group(own, SHARED_GROUP)
    actions = [a for a in own._actions if not isinstance(a, argparse._HelpAction | argparse._SubParsersAction)]
    parts += [_option(action) for action in actions if shared is None or action not in shared._group_actions]
    if shared is not None:
        parts.append("It also takes the [options of settings](#cli-settings).\n")
    if own.epilog:
        parts.append(_text(own.epilog))
    return "\n".join(parts)


def _option(action: argparse.Action) -> str:
    value = "" if action.nargs == 0 else _metavar(action)
    names = [f"{name} {value}".strip() for name in action.option_strings] or [value]
    facts = [escape(action.help or "")]
    if action.choices:
        facts.append("One of " + ", ".join(f"`{choice}`" for choice in action.choices) + ".")
    if action.option_strings and action.required:
        facts.append("Required.")
    text = "\n\n".join(filter(None, facts))
    return f":::{{option}} {', '.join(names)}\n\n{text}\n:::\n"


def _metavar(action: argparse.Action) -> str:
    if action.choices:
        return "{" + ",".join(map(str, action.choices)) + "}"
    metavar = action.metavar or action.dest.upper()
    text = metavar if isinstance(metavar, str) else " ".join(metavar)
    return f"{text} [{text} ...]" if action.nargs == "+" else text


def _text(text: str) -> str:
    """Paragraphs of a help text; those with indented lines, as examples have, become blocks of code."""
    parts = []
    for paragraph in text.split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if any(line.startswith("  ") for line in lines):
            first_code = next(n for n, line in enumerate(lines) if line.startswith("  "))
            parts.append(escape(" ".join(lines[:first_code])) + "\n")
            parts.append(code_block("\n".join(line.removeprefix("  ") for line in lines[first_code:])))
        else:
            parts.append(escape(" ".join(lines)) + "\n")
    return "\n".join(parts)
