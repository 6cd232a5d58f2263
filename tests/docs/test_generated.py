"""The generated reference: nothing is left out, and what it says of hand-picked cases is right."""

import dataclasses
import re
from pathlib import Path

import pyarrow as pa
import pytest

import emqa_dask
from docs.generate import (
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
    write_pages,
)
from emqa_dask import tables
from emqa_dask.archive.sniff import RARE_FORMATS, SUFFIXES
from emqa_dask.pipeline.workspace.stages import STAGES
from emqa_dask.settings import RENAMED_KEYS, SECTIONS, Settings
from emqa_dask.triage.flag_list import FLAGS


def test_every_verb_and_option_is_described():
    page = cli.render_page()
    for name, own in cli.list_verbs().items():
        assert f"`emqa {name}`" in page
        for action in own._actions:
            for option in set(action.option_strings) - {"-h", "--help"}:
                assert option in page, (name, option)


def test_help_text_of_an_option_is_copied():
    page = cli.render_page()
    section = page.partition("## `emqa triage`")[2].partition("\n## ")[0]
    assert ":::{option} --workspace WS\n\nwhere results go; default: ./\\<name of SRC\\>.emqa\n:::" in section


def test_usage_does_not_depend_on_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    wide = cli.render_page()
    monkeypatch.setenv("COLUMNS", "40")
    assert cli.render_page() == wide


def test_every_settings_key_is_described():
    page = settings.render_page()
    for section in SECTIONS:
        for field in dataclasses.fields(getattr(Settings(), section)):
            assert f":::{{confval}} {section}.{field.name}\n" in page


def test_every_settings_key_has_a_type():
    keys = [key for name in SECTIONS for key in settings.list_keys(name, type(getattr(Settings(), name)))]
    assert [key.name for key in keys if not key.type] == []


def test_renamed_keys_lead_to_present_ones():
    page = settings.render_page()
    for former, present in RENAMED_KEYS.items():
        assert f"`{former}`\n  - {{confval}}`{present}`" in page
        assert f":::{{confval}} {present}\n" in page


def test_type_default_and_range_of_a_setting():
    keys = {key.name: key for key in settings.list_keys("detect", type(Settings().detect))}
    assert keys["detect.threshold"] == settings.Key(
        "detect.threshold", "number", "0.15", "0 to 10", "of the scale-normalised response on the normalised image"
    )
    assert keys["detect.detectors"].default == '["auto"]'


def test_every_column_of_every_table_is_described():
    page = columns.render_page()
    for name, schema in columns.list_schemas().items():
        for field in schema:
            assert f"`{name.lower()}.{field.name}`" in page
            assert columns.read_meaning(field), (name, field.name)


def test_every_table_says_its_rows_and_file():
    page = columns.render_page()
    for name in columns.list_schemas():
        section = page.partition(f"\n## {name.lower()}\n")[2].partition("\n## ")[0]
        assert re.search(r"^A row per .*\.$", section, re.MULTILINE), name
        assert re.search(r"^File: `.+`$", section, re.MULTILINE), name


@pytest.mark.parametrize(
    ("table", "column", "unit", "missing"),
    [
        (tables.CATALOG, "size_bytes", "bytes", "null"),
        (tables.DETECTIONS, "y0", "px", "NaN"),
        (tables.DETECTIONS, "area_px", "px²", "NaN"),
        (tables.FEATURES, "information_limit_per_nm", "1/nm", "NaN"),
        (tables.FEATURES, "impulses_per_mpx", "1/Mpx", "NaN"),
        (tables.FEATURES, "scale_bar_x1", "px", "NaN"),
        (tables.EVIDENCE, "score_fraction_3", "fraction", "NaN"),
        (tables.TRIAGE, "nm_per_pixel", "nm/px", "NaN"),
        (tables.TRIAGE, "uri", "", "null"),
        (tables.CLASSIFICATIONS, "predictive_entropy_nats", "nats", "NaN"),
    ],
)
def test_unit_and_missing_value_of_a_column(table: pa.Schema, column: str, unit: str, missing: str):
    field = table.field(column)
    assert (columns.find_unit(field), columns.find_missing_value(field)) == (unit, missing)


def test_every_verdict_has_its_reasons():
    page = verdicts.render_page()
    assert all(f"## `{verdict}`" in page for verdict in tables.VERDICTS if verdict != "trust")
    assert "- `blur`\n  - The image is out of focus." in page
    assert page.index("## `junk`") < page.index("## `unknown`") < page.index("## `review`")


def test_every_flag_has_its_limit():
    page = verdicts.render_page().partition("## Limits of image flags")[2]
    assert all(f"- `{flag.code}`\n" in page for flag in FLAGS)
    assert "- `too_small`\n  - {column}`features.short_side_px`\n  - below\n  - {confval}`flags.too_small_px`" in page


def test_every_stage_has_its_tables():
    page = stage_table.render_table()
    assert all(f"[`{table}`](#table-{table})" in page for stage in STAGES for table in stage.tables)


def test_diagram_shows_every_package_and_its_imports():
    drawing = package_diagram.draw()
    units = {path.parent.name for path in packages.ROOT.glob("*/__init__.py")}
    units |= {path.stem for path in packages.ROOT.glob("*.py")} - {"__init__", "__main__"}
    shown = {unit.split("/")[0] for rows in package_diagram.list_bands() for row in rows for unit in row}
    assert shown == units
    assert all(f'class="name" text-anchor="start">{unit}' in drawing for unit in units)


def test_imports_are_those_of_the_code():
    assert package_diagram.find_imports("tables") == set()
    assert {"settings", "tables"} <= package_diagram.find_imports("report")
    assert {"pipeline/workspace", "settings"} <= package_diagram.find_imports("pipeline/tasks")
    assert "pipeline/commands" not in package_diagram.find_imports("pipeline/tasks")


def test_path_leads_from_catalog_to_triage():
    nodes = {node.table: node for node in path_diagram.list_nodes()}
    depths = path_diagram.find_depths(list(nodes.values()))
    assert depths["catalog"] == 0
    assert max(depths, key=depths.__getitem__) == "triage"
    assert "predictions" in nodes["triage"].sources


def test_arrows_that_follow_from_others_are_left_out():
    nodes = [
        path_diagram.Node(name, "", sources, "") for name, sources in (("a", ()), ("b", ("a",)), ("c", ("a", "b")))
    ]
    assert path_diagram.find_arrows(nodes) == [("a", "b"), ("b", "c")]


def test_every_result_has_all_its_facts():
    for figure in results.list_results():
        assert all(figure[key] for key in results.COLUMNS), figure


def test_every_script_of_a_result_exists():
    scripts = {figure["script"].split()[0].rstrip(";") for figure in results.list_results()}
    paths = {name: packages.ROOT.parent / "benchmarks" / name for name in scripts if name.endswith(".py")}
    assert [name for name, path in paths.items() if not path.is_file()] == []


def test_functions_named_in_pages_are_exported():
    pages = (packages.ROOT.parent / "docs").rglob("*.md")
    text = "".join(path.read_text() for path in pages if "_generated" not in path.parts)
    names = set(re.findall(r"\bemqa_dask\.(\w+)\(", text))
    assert len(names) > 5
    assert names <= set(emqa_dask.__all__)


def test_pages_are_the_same_when_written_again(tmp_path):
    paths = write_pages(tmp_path)
    times = [path.stat().st_mtime_ns for path in paths]
    assert [path.stat().st_mtime_ns for path in write_pages(tmp_path)] == times


def test_every_format_names_tests_that_exist():
    folder = Path(__file__).parents[1] / "archive"
    for entry in formats.list_formats():
        assert formats.list_tests(entry), entry["format"]
        for node in formats.list_tests(entry):
            module, _, name = node.partition("::")
            assert re.search(rf"^def {name}\(", (folder / module).read_text(), re.MULTILINE), node


def test_every_suffix_of_a_reader_is_on_the_page():
    page = formats.render_page()
    documented = set(re.findall(r"\.[a-z0-9]+", page))
    synonyms = {".jpeg", ".jpe", ".tf8", ".j2c", ".jpc", ".jpf", ".pnm", ".hdf5", ".spx", ".spc", ".msa", ".dens"}
    synonyms |= {".asw", ".pts", ".eds"}
    assert set(SUFFIXES) | set(RARE_FORMATS) <= documented | synonyms
