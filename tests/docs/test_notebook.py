"""The tutorial notebook runs from its first to its last cell, in a process of its own, and shows what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "examples" / "tutorial.ipynb"
# What Jupyter does with the cells: it executes one after the other and displays the value of a last expression.
RUNNER = """
import ast, json, sys
scope = {"__name__": "__main__"}
for cell in json.load(open(sys.argv[1]))["cells"]:
    if cell["cell_type"] != "code":
        continue
    tree = ast.parse("".join(cell["source"]))
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, cell["id"], "exec"), scope)
    value = None if last is None else eval(compile(ast.Expression(last.value), cell["id"], "eval"), scope)
    if hasattr(value, "_repr_png_"):
        print(value._repr_png_()[:4])
    elif value is not None:
        getattr(value, "_repr_html_", str)()
        print(repr(value))
"""


def test_notebook_is_stored_without_results():
    notebook = json.loads(NOTEBOOK.read_text())
    assert notebook["nbformat"] == 4
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"])


@pytest.mark.real
def test_every_cell_of_the_notebook_runs(tmp_path):
    command = [sys.executable, "-c", RUNNER, str(NOTEBOOK)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    for text in ("12 micrographs", "Run of emqa_dask in", "b'\\x89PNG'", "(768, 1024) uint16", "review"):
        assert text in ran.stdout, (text, ran.stdout)


@pytest.mark.real
def test_jupyter_executes_the_notebook(tmp_path):
    pytest.importorskip("nbconvert", reason="nbconvert is not installed (pip install nbconvert ipykernel)")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed (pip install nbconvert ipykernel)")
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", str(tmp_path)]
    ran = subprocess.run([*command, str(NOTEBOOK)], capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    cells = json.loads((tmp_path / NOTEBOOK.name).read_text())["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in cell["outputs"]]
    assert "error" not in {output["output_type"] for output in outputs}
    kinds = {kind for output in outputs for kind in output.get("data", ())}
    assert {"text/plain", "text/html", "image/png"} <= kinds
