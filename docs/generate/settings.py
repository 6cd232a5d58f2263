"""The reference of the settings, from the settings records: name, type, default, range and comment of every key."""

import dataclasses
import inspect
import json
import typing

from docs.generate.markdown import code_block, escape, list_table
from docs.generate.source import field_comments
from emqa_dask.settings import RENAMED_KEYS, SECTIONS, TEMPLATES, Settings, template_names
from emqa_dask.settings.custom_checks import CHECK_KEYS, CHECK_VERDICTS, CustomCheck
from emqa_dask.settings.detect_windows import DetectWindows
from emqa_dask.settings.stages import Cohort
from emqa_dask.triage.flag_list import FLAGS

TYPES = {str: "text", int: "whole number", float: "number", bool: "true or false", tuple[str, ...]: "list of texts"}
TYPES |= {tuple[CustomCheck, ...]: "tables", DetectWindows: "file"}


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the settings; `range` is "" where there is none."""

    name: str
    type: str
    default: str
    range: str
    comment: str


SWITCHES = {f"flags.{flag.code}": f"Flag images with this fault: {flag.meaning}" for flag in FLAGS}


def list_keys(section: str, record: type) -> list[Key]:
    """Every key of a section, in the order of the record."""
    hints = typing.get_type_hints(record)
    comments = field_comments(record)
    ranges = getattr(record, "RANGES", {})
    default = record()
    found = []
    for field in dataclasses.fields(record):
        name = f"{section}.{field.name}"
        value = getattr(default, field.name)
        limits = _range(ranges[field.name]) if field.name in ranges else ""
        kind = TYPES.get(hints[field.name], "")
        found.append(Key(name, kind, _toml(value), limits, comments.get(field.name) or SWITCHES.get(name, "")))
    return found


def _range(limits) -> str:
    return f"{'0 or ' if limits.or_zero else ''}{limits.low:,.12g} to {limits.high:,.12g}"


def _toml(value: object) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def render_page() -> str:
    """The page: a section of every record, the cohorts, and the templates."""
    parts = [_section(name, type(getattr(Settings(), name))) for name in SECTIONS]
    return "\n".join([*parts, _custom_checks(), _cohorts(), _templates(), _renamed()])


def _section(name: str, record: type) -> str:
    head = f"(settings-{name})=\n## `[{name}]`\n"
    own_doc = record.__doc__ or ""
    doc = "" if own_doc.startswith(f"{record.__name__}(") else escape(inspect.cleandoc(own_doc)) + "\n"
    return "\n".join([head, doc, *(_entry(key) for key in list_keys(name, record))])


def _entry(key: Key) -> str:
    kind = ", ".join(filter(None, [key.type, key.range]))
    return f":::{{confval}} {key.name}\n:type: {kind}\n:default: `{key.default}`\n\n{escape(key.comment)}\n:::\n"


def _custom_checks() -> str:
    """The keys of [flags.custom.NAME]: the two limits, and the texts of the record."""
    comments = field_comments(CustomCheck)
    limits = {
        "above": "The fault lies above this limit. A check has either `above` or `below`.",
        "below": "The fault lies below this limit.",
    }
    texts = {key: comments[key] for key in CHECK_KEYS if key not in limits}
    texts["function"] = "The function, as `package.module:function`; it gets an image and a header."
    texts["verdict"] = f"{comments['verdict']}: {', '.join(f'`{verdict}`' for verdict in CHECK_VERDICTS)}"
    texts["text"] = f"{comments['text']}; it may name `{{value}}` and `{{limit}}` with a format"
    texts["folder"] = f"{comments['folder']}; by default that of the settings file"
    entries = [Key(f"flags.custom.NAME.{key}", "number", "none", "", text) for key, text in limits.items()]
    default = CustomCheck("name", "", 0.0, True)
    entries += [
        Key(f"flags.custom.NAME.{key}", "text", _toml(getattr(default, key)), "", text) for key, text in texts.items()
    ]
    head = "(settings-flags-custom)=\n## `[flags.custom.NAME]`\n\n" + escape(
        inspect.cleandoc(CustomCheck.__doc__ or "")
    )
    more = " {doc}`../how-to/custom-checks` has examples.\n"
    return "\n".join([head + more, *(_entry(entry) for entry in entries)])


def _cohorts() -> str:
    keys = [key for key in list_keys("cohorts", Cohort) if key.type]
    head = "(settings-cohorts)=\n## `[[cohorts]]`\n\n" + escape(inspect.cleandoc(Cohort.__doc__ or "")) + "\n"
    more = "An entry may also have the keys of `[detect]` that can differ within a run, and the first entry that a "
    more += "micrograph belongs to counts.\n"
    return "\n".join([head, more, *map(_entry, keys)])


def _templates() -> str:
    parts = ["(settings-templates)=\n## Templates\n\n`--template NAME` starts from one of these files.\n"]
    for name in template_names():
        parts.append(f"### `{name}`\n\n" + code_block((TEMPLATES / f"{name}.toml").read_text(), "toml"))
    return "\n".join(parts)


def _renamed() -> str:
    rows = [(f"`{former}`", f"{{confval}}`{present}`") for former, present in RENAMED_KEYS.items()]
    head = (
        "(settings-renamed)=\n## Renamed keys\n\nA former name is refused, and the message gives the present one.\n\n"
    )
    return head + list_table(("former name", "present name"), rows, "reasons")
