"""Settings: every number has a range, no value makes a file that cannot be read, and errors are one line."""

import dataclasses
import math
import re
import tomllib
import typing

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from benchmarks.bad_settings import cases
from emqa_dask.cli import main
from emqa_dask.cli.arguments import build_parser
from emqa_dask.cli.options import parse_settings_changes
from emqa_dask.settings import (
    RENAMED_KEYS,
    SECTIONS,
    Cohort,
    Settings,
    SettingsError,
    dump,
    load_settings,
    parse,
    replace,
)
from emqa_dask.settings.rules import LONGEST_TEXT

RECORDS = {section: type(getattr(Settings(), section)) for section in SECTIONS} | {"cohorts": Cohort}
HINTS = {
    (section, name): hint
    for section, record in RECORDS.items()
    for name, hint in typing.get_type_hints(record).items()
    if name in {field.name for field in dataclasses.fields(record)}
}
NUMBERS = [key for key, hint in HINTS.items() if hint in (int, float)]
TEXTS = [key for key, hint in HINTS.items() if hint is str or (hint == tuple[str, ...])]


def change(section: str, key: str, value: object) -> Settings:
    table = {key: value}
    return replace(Settings(), {section: [table] if section == "cohorts" else table}, "s.toml")


def refusal(section: str, key: str, value: object) -> str:
    """The error of that value: one line that names the file and the setting."""
    with pytest.raises(SettingsError) as raised:
        change(section, key, value)
    text = str(raised.value)
    assert text.startswith("s.toml: ")
    assert f"{section}.{key}" in text
    assert "\n" not in text
    assert len(text) < 400
    return text


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_every_number_has_a_finite_range_that_its_error_states(section, key):
    limits = RECORDS[section].RANGES[key]
    assert math.isfinite(limits.low)
    assert math.isfinite(limits.high)
    for value in (math.nan, math.inf, -math.inf, limits.high + 1, limits.low - 1, 1e99, 10**400, "x", True):
        if not (limits.or_zero and value == 0):
            refusal(section, key, value)
    as_type = HINTS[section, key]
    assert f"{limits.high:,.12g}" in refusal(section, key, as_type(limits.high + 1))


@pytest.mark.parametrize(("section", "key"), NUMBERS)
def test_a_number_that_is_taken_is_read_back(section, key):
    for value in (-1, 0, 1, 1e99, 0.5, 1e-7):
        try:
            settings = change(section, key, value)
        except SettingsError:
            continue
        assert parse(dump(settings), "again") == settings


@pytest.mark.parametrize(("section", "key"), TEXTS)
def test_texts_with_control_characters_are_refused(section, key):
    for text in ("a\0b", "a\nb", "a\x1b[31mb", "a\x7fb", "a\udc80b", "x" * (LONGEST_TEXT + 1)):
        refusal(section, key, [text] if HINTS[section, key] is not str else text)


@pytest.mark.parametrize(("section", "key"), [k for k in TEXTS if HINTS[k] is not str and k[0] != "cohorts"])
def test_lists_with_empty_or_too_many_entries_are_refused(section, key):
    refusal(section, key, [""])
    refusal(section, key, [f"a{n}=b:/c" for n in range(1001)])


@examples(deadline=None)
@given(text=st.text(max_size=40), exclude=st.lists(st.text(max_size=9), max_size=4), level=st.floats())
def test_what_is_taken_is_valid_toml_and_read_back(text, exclude, level):
    try:
        settings = replace(
            Settings(),
            {
                "classify": {"model": text},
                "archive": {"exclude": exclude},
                "triage": {"trust_f1": level},
                "cohorts": [{"uri": text, "instrument": "a", "threshold": level}],
            },
        )
    except SettingsError:
        return
    written = dump(settings)
    tomllib.loads(written)
    assert parse(written, "again") == settings


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[run\n", "s.toml: not valid TOML"),
        (b"[run]\nqueue = '\xff'\n", "s.toml: not valid TOML: byte 15 is no UTF-8"),
        (b"a = " + b"[" * 100_000, "s.toml: not valid TOML"),
        (b"[run]\nworkers = " + b"9" * 5000, "s.toml: not valid TOML"),
        (b"[run]\nwait_s = " + b"9" * 400, "run.wait_s is 999.*: that is too large"),
        (b"[run]\nwait_s = nan", "run.wait_s is nan: it has to be in 0...2,592,000"),
        (b"run = 3", r"s.toml: \[run\] has to be a table"),
        (b"cohorts = 3", "s.toml: .*list of tables"),
    ],
)
def test_a_broken_file_is_one_line_with_its_name(tmp_path, data, message):
    (tmp_path / "s.toml").write_bytes(data)
    with pytest.raises(SettingsError, match=message) as raised:
        load_settings(tmp_path / "s.toml")
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 400


def test_a_file_with_a_byte_order_mark_is_read(tmp_path):
    (tmp_path / "s.toml").write_bytes(b"\xef\xbb\xbf[run]\nworkers = 2\n")
    assert load_settings(tmp_path / "s.toml").run.workers == 2


def test_a_folder_in_place_of_a_settings_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match="cannot be read as a settings file: Is a directory; give another file"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("run", "dashboard", "127.0.0.1:65536"),
        ("run", "dashboard", "127.0.0.1"),
        ("run", "scheduler", "tcp://host"),
        ("run", "scheduler", "tcp://host:0"),
        ("run", "scheduler", "tls://host:99999"),
        ("run", "scheduler", "file:"),
        ("slurm", "walltime", "366-00:00:00"),
        ("slurm", "walltime", "00:00:00"),
        ("slurm", "walltime", "9" * 99 + ":00:00"),
    ],
)
def test_ports_and_walltimes_have_limits(section, key, value):
    refusal(section, key, value)


def test_schedulers_with_a_port_are_taken():
    for scheduler in ("tcp://10.0.0.1:8786", "tls://[::1]:8786/", "file:scheduler.json"):
        assert change("run", "scheduler", scheduler).run.scheduler == scheduler


def test_a_range_is_no_setting():
    for section in ("detect", "cohorts"):
        refusal(section, "RANGES", 1)


@pytest.mark.parametrize(("old", "new"), RENAMED_KEYS.items())
def test_a_renamed_key_is_refused_with_its_new_name(old, new, tmp_path):
    section, key = old.split(".")
    new_section, new_key = new.split(".")
    assert old not in {".".join(name) for name in HINTS}
    assert (new_section, new_key) in HINTS
    remedy = f"setting {old} was renamed: write {new}, which is {new_key} in section [{new_section}]"
    assert refusal(section, key, 1) == f"s.toml: {remedy}"
    file = tmp_path / "own.toml"
    file.write_text(f"[{section}]\n{key} = 1\n")
    with pytest.raises(SettingsError, match=re.escape(f"{file}: {remedy}")):
        load_settings(file)
    options = build_parser().parse_args(["triage", "archive", "--set", f"{old}=1"])
    with pytest.raises(SettingsError, match=re.escape(f"command line: {remedy}")):
        replace(Settings(), parse_settings_changes(options), "command line")


@pytest.mark.parametrize("section", SECTIONS)
def test_a_bad_value_is_refused_by_name_or_read_back(section):
    command = build_parser()
    for case in cases([section]):
        options = command.parse_args(["triage", "archive", "--set", case.option])
        try:
            settings = replace(Settings(), parse_settings_changes(options), "command line")
        except SettingsError as error:
            assert str(error).startswith("command line: ")  # noqa: PT017
            assert f"{section}.{case.key}" in str(error)  # noqa: PT017
            continue
        assert case.value in ("-1", "0", "x") or HINTS[section, case.key] is str
        assert parse(dump(settings), "again") == settings


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("run.workers=4096", "run.workers is 4096: this machine has"),
        (
            "local.host=no.such.host.invalid",
            "local.host is 'no.such.host.invalid', which is no address of this machine",
        ),
        ("local.host='192.0.2.1'", "local.host is '192.0.2.1', which is no address of this machine"),
        ("local.host='" + "a" * 300 + "'", "local.host is 'aaa"),
    ],
)
def test_what_this_machine_cannot_have_is_refused(option, message, small_archive, tmp_path, capsys):
    command = ["triage", str(small_archive), "--workspace", str(tmp_path / "ws"), "--set", option]
    assert main(command) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "ws").exists()
