"""Every call of cupy, cupyx, cuCIM, NVML and torch in the code fits the signature that the installed package has."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.ndimage
import skimage.filters
import skimage.transform
import torch

import emqa_dask

PACKAGE = Path(emqa_dask.__file__).parent
# Names by which code for a device calls the packages: what get_array_modules() and get_skimage() return.
ROOTS = ("xp", "ndi", "skimage", "cupy")
TWINS = {"xp": np, "ndi": scipy.ndimage, "skimage": skimage}
SYNONYMS = {("tup", "arrays"), ("a", "arr"), ("start", "start_or_stop"), ("args", "x1"), ("axes", "x2")}
# Calls in these modules, on arrays or tables that are always on the host, with arguments that cupy's methods lack.
HOST_CALLS = {("blobs.py", "max"), ("candidates.py", "clip"), ("thumbnails.py", "min")}


def list_device_modules() -> Iterator[tuple[Path, ast.Module]]:
    """Modules that compute with the arrays of a device."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if "get_array_modules" in text or "get_skimage" in text:
            yield path, ast.parse(text)


def name_chain(node: ast.expr) -> list[str]:
    """["xp", "fft", "rfft2"] of `xp.fft.rfft2`; [] of anything but a name and its attributes."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.insert(0, node.attr)
        node = node.value
    return [node.id, *names] if isinstance(node, ast.Name) else []


def list_imports(tree: ast.Module) -> Iterator[str]:
    """The names that a module imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).partition(".")[0] for alias in node.names)


def bind(call: ast.Call, signature: inspect.Signature, n_bound: int = 0) -> None:
    """TypeError where the arguments of `call`, after `n_bound` others, do not fit."""
    has_starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    keywords = {keyword.arg: None for keyword in call.keywords if keyword.arg}
    has_starred |= len(keywords) < len(call.keywords)
    positional = [None] * (n_bound + sum(not isinstance(argument, ast.Starred) for argument in call.args))
    (signature.bind_partial if has_starred else signature.bind)(*positional, **keywords)


def check_call(call: ast.Call, function) -> None:
    if hasattr(function, "nin"):  # a ufunc, whose signature cannot be asked for
        assert len(call.args) == function.nin
        assert {keyword.arg for keyword in call.keywords} <= {"out", "dtype"}
    elif inspect.isbuiltin(function):  # of the CUDA runtime: none takes arguments here
        bind(call, inspect.Signature())
    else:
        bind(call, inspect.signature(function))


def check_order(call: ast.Call, function, twin) -> None:
    """The arguments by position mean what they mean to numpy, SciPy or scikit-image, whose results tests compare."""
    try:
        names, twin_names = (list(inspect.signature(each).parameters) for each in (function, twin))
    except ValueError:  # ufuncs, which have one order
        return
    pairs = list(zip(names, twin_names, strict=False))[: len(call.args)]
    assert [(a, b) for a, b in pairs if a != b and (a, b) not in SYNONYMS] == []


def find_attribute(package, names: list[str]):
    for name in names:
        package = getattr(package, name)
    return package


@pytest.fixture(scope="module")
def packages():
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    ndimage = pytest.importorskip("cupyx.scipy.ndimage", reason="cupy is not installed")
    filters = pytest.importorskip("cucim.skimage.filters", reason="cucim is not installed")
    transform = pytest.importorskip("cucim.skimage.transform", reason="cucim is not installed")
    return {"xp": cupy, "cupy": cupy, "ndi": ndimage, "skimage": SimpleNamespace(filters=filters, transform=transform)}


def test_calls_fit_the_signatures_of_cupy_and_cucim(packages):
    called = set()
    for path, tree in list_device_modules():
        nodes = list(ast.walk(tree))
        for chain in [name_chain(node) for node in nodes if isinstance(node, ast.Attribute)]:
            if chain and chain[0] in packages:
                find_attribute(packages[chain[0]], chain[1:])
        for call in [node for node in nodes if isinstance(node, ast.Call)]:
            chain = name_chain(call.func)
            if len(chain) > 1 and chain[0] in packages:
                called.add(".".join(chain))
                try:
                    function = find_attribute(packages[chain[0]], chain[1:])
                    check_call(call, function)
                    if chain[0] in TWINS:
                        check_order(call, function, find_attribute(TWINS[chain[0]], chain[1:]))
                except (TypeError, AssertionError) as error:
                    pytest.fail(f"{path}:{call.lineno}: {'.'.join(chain)}: {error}")
    assert {"xp.bincount", "xp.fft.rfft2", "ndi.correlate1d", "skimage.filters.gaussian", "cupy.asarray"} <= called


def test_functions_of_cucim_are_those_of_the_documentation():
    called = set()
    for _, tree in list_device_modules():
        chains = [name_chain(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
        called |= {"cucim." + ".".join(chain) for chain in chains if chain[:1] == ["skimage"]}
    page = (PACKAGE.parent / "docs" / "how-to" / "clusters.md").read_text()
    assert called == set(re.findall(r"^\| `(cucim\.[\w.]+)`", page, re.MULTILINE))


def read_method_signature(method) -> inspect.Signature:
    """The signature of a method of cupy.ndarray, which states it in the first line of its docstring."""
    line = method.__doc__.strip().partition("\n")[0]
    parameters = line[line.index("(") + 1 : line.rindex(")")]
    return inspect.signature(eval(f"lambda {parameters}: None"))


def test_methods_fit_those_of_arrays_of_cupy(packages):
    """Methods whose names numpy's arrays have; what is called on an array of the host fits as well."""
    called = set()
    for path, tree in list_device_modules():
        imports = {*ROOTS, *list_imports(tree)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            name = node.func.attr
            is_text = isinstance(node.func.value, ast.Attribute) and node.func.value.attr == "__module__"
            is_function = bool(imports & set(name_chain(node.func)[:1]))
            is_elsewhere = is_text or is_function or (path.name, name) in HOST_CALLS
            if is_elsewhere or not hasattr(np.ndarray, name):
                continue
            called.add(name)
            try:
                bind(node, read_method_signature(getattr(packages["cupy"].ndarray, name)), n_bound=1)
            except (AttributeError, TypeError) as error:
                pytest.fail(f"{path}:{node.lineno}: {name}: {error}")
    assert {"astype", "sum", "reshape", "mean", "take"} <= called


def test_names_of_torch_exist():
    """Its functions run in other tests, on a CPU; those of torch.cuda do not."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            chain = name_chain(node) if isinstance(node, ast.Attribute) else []
            if len(chain) > 1 and chain[0] == "torch":
                names.add(".".join(chain[1:]))
                find_attribute(torch, chain[1:])
    assert {"cuda.is_available", "cuda.empty_cache", "inference_mode"} <= names


def test_calls_fit_the_signatures_of_nvml():
    pynvml = pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed")
    called = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            chain = name_chain(node.func) if isinstance(node, ast.Call) else []
            if len(chain) == 2 and chain[0] == "pynvml":
                called.add(chain[1])
                try:
                    bind(node, inspect.signature(getattr(pynvml, chain[1])))
                except (AttributeError, TypeError) as error:
                    pytest.fail(f"{path}:{node.lineno}: {chain[1]}: {error}")
    assert {"nvmlInit", "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUtilizationRates"} <= called
    assert "gpu" in dict(pynvml.c_nvmlUtilization_t._fields_)  # in %, of what the last of these returns
