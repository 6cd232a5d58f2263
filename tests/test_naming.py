"""Names and sizes of the package, and names of the tests, follow the conventions of CONTRIBUTING.md."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "emqa_dask"
# Words that name nothing when they stand alone. Two are missing: `out`, numpy's keyword for the result array, and
# `left`, a side.
PREPOSITIONS = (
    "about above across after again against along among around as at before behind below beneath beside between "
    "beyond by down during except for from in inside into near of off on onto outside over past per since than "
    "through to toward under until up upon via with within without"
)
ADVERBS = (
    "afterwards ago almost already also always anew apart aside away besides else elsewhere ever everywhere far forth "
    "hence here how however just least less little many more most much never now often once only otherwise quite "
    "rather seldom so somewhere soon still then there thereby therefore thus together too twice very when whence "
    "whenever where wherever whether why yet"
)
PRONOUNS = (
    "anybody anyone anything everybody everyone everything he her hers him his it its itself me mine my nobody "
    "nothing our ours she somebody someone something that their theirs them these they this those us we what whatever "
    "which whichever who whoever whom whose you your yours"
)
PARTICIPLES = (
    "added asked been begun being bound brought built called caught chosen come compared counted cut described done "
    "drawn dropped fallen felt fitted forgotten found gained given gone got heard held hidden kept known laid lent "
    "lost made meant measured met moved paid put said sampled seen sent shown spent spoken stood struck taken taught "
    "thought told torn tried understood wanted word words worked written wrote"
)
BARE_WORDS = frozenset(f"{PREPOSITIONS} {ADVERBS} {PRONOUNS} {PARTICIPLES}".split())
MAX_VALUES = 3  # assigned by one statement; a pair or a triple belongs together (y, x; low, high)
MAX_PACKED_SHARE = 0.01  # of all assignments: tuples of targets with a tuple of values
MAX_FUNCTION_LINES = 60
MAX_NESTING = 4  # blocks of if, for, while, with, try and match in a function
MAX_MODULE_LINES = 400
MAX_TEST_NAME_WORDS = 10
BLOCKS = (ast.If, ast.For, ast.While, ast.With, ast.Try, ast.Match)


def list_modules(folder: Path = PACKAGE) -> Iterator[tuple[str, ast.Module]]:
    """Path inside the repository, and syntax tree, of every module in `folder`."""
    for path in sorted(folder.rglob("*.py")):
        yield path.relative_to(REPOSITORY).as_posix(), ast.parse(path.read_text())


def list_functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def list_defined_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and name of every variable, parameter, attribute, function and class that is defined in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name


def find_bare_names(tree: ast.AST) -> list[tuple[int, str]]:
    return [(line, name) for line, name in list_defined_names(tree) if name.strip("_").lower() in BARE_WORDS]


def list_assigned_values(tree: ast.AST) -> Iterator[tuple[int, int, bool]]:
    """Line, number of targets, and whether several values are packed, of every assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            target = node.targets[0]
            n_targets = len(target.elts) if isinstance(target, ast.Tuple | ast.List) else 1
            yield node.lineno, n_targets, n_targets > 1 and isinstance(node.value, ast.Tuple)


def measure_nesting(node: ast.AST) -> int:
    """Largest number of blocks inside each other. A function in this one counts for itself; elif is no new block."""
    depths = [0]
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            continue
        is_elif = isinstance(node, ast.If) and node.orelse == [child] and isinstance(child, ast.If)
        depths.append(measure_nesting(child) + (isinstance(child, BLOCKS) and not is_elif))
    return max(depths)


def count_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return function.end_lineno - function.lineno + 1


def find_package(path: str) -> str:
    """Package of a module, "." for the shared modules: emqa_dask/detect/log.py is in detect."""
    return Path(path).parent.relative_to("emqa_dask").as_posix()


MODULES = list(list_modules())
PACKAGES = sorted({find_package(path) for path, _ in MODULES})


@pytest.mark.parametrize("package", PACKAGES)
def test_names_are_more_than_a_bare_word(package):
    modules = [(path, tree) for path, tree in MODULES if find_package(path) == package]
    names = [f"{path}:{line} {name}" for path, tree in modules for line, name in find_bare_names(tree)]
    assert names == []


@pytest.mark.parametrize("package", PACKAGES)
def test_no_statement_assigns_four_values(package):
    modules = [(path, tree) for path, tree in MODULES if find_package(path) == package]
    counts = [(path, line, n) for path, tree in modules for line, n, _ in list_assigned_values(tree)]
    statements = [f"{path}:{line}" for path, line, n in counts if n > MAX_VALUES]
    assert statements == []


def test_few_assignments_pack_several_values():
    packed = [is_packed for _, tree in MODULES for _, _, is_packed in list_assigned_values(tree)]
    assert sum(packed) < MAX_PACKED_SHARE * len(packed)


def test_functions_are_short():
    functions = {f"{path}:{function.name}": function for path, tree in MODULES for function in list_functions(tree)}
    long = {name: count_lines(function) for name, function in functions.items()}
    assert {name: n for name, n in long.items() if n > MAX_FUNCTION_LINES} == {}


def test_blocks_are_not_nested_deeply():
    functions = [(f"{path}:{function.name}", function) for path, tree in MODULES for function in list_functions(tree)]
    depths = {name: measure_nesting(function) for name, function in functions}
    assert {name: depth for name, depth in depths.items() if depth > MAX_NESTING} == {}


def test_modules_are_not_too_long():
    lengths = {path: len((REPOSITORY / path).read_text().splitlines()) for path, _ in MODULES}
    assert {path: n for path, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_names_of_tests_have_at_most_ten_words():
    trees = [tree for _, tree in list_modules(REPOSITORY / "tests")]
    names = [function.name for tree in trees for function in list_functions(tree)]
    words = {name: name.split("_")[1:] for name in names if name.startswith("test_")}
    assert [name for name, parts in words.items() if len(parts) > MAX_TEST_NAME_WORDS] == []


def test_bare_words_are_found_wherever_a_name_is_defined():
    code = "def where(at, *, rows):\n  for how in rows:\n    self.said, n = f(how)\n  return {of: 1 for of in n}"
    names = Counter(name for _, name in find_bare_names(ast.parse(code)))
    assert names == Counter(["where", "at", "how", "said", "of"])


def test_nesting_counts_blocks_and_no_elif():
    code = "def f(x):\n for a in x:\n  if a:\n   b()\n  elif c:\n   d()\n  elif e:\n   g()"
    assert measure_nesting(ast.parse(code).body[0]) == 2
