"""Groups and arrays of a Zarr hierarchy, one by one, so that a broken one costs no other."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from emqa_dask.archive.checks.zarr_files import ZarrFiles
from emqa_dask.archive.source import ReadError

MAX_NODES = 100_000  # groups and arrays below a group
_NODE_NAMES = ("zarr.json", ".zgroup", ".zarray")


@dataclass(frozen=True)
class ImplicitGroup:
    """A folder without metadata of its own that holds groups or arrays, as TensorStore and Java programs write it."""

    store: Any  # as zarr.open() takes it
    path: str = ""
    attrs: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, path: str) -> Any:
        import zarr

        full_path = f"{self.path}/{path}" if self.path else path
        try:
            return zarr.open_array(store=self.store, path=full_path, mode="r")
        except (FileNotFoundError, KeyError, zarr.errors.NodeTypeValidationError):
            return zarr.open_group(store=self.store, path=full_path, mode="r", use_consolidated=False)


def get_node(group: Any, path: str) -> Any:
    """The group or array at `path` below `group`; None where there is none or its metadata are broken."""
    try:
        return group[path]
    except Exception:  # KeyError, broken JSON, a type of data that zarr-python does not know
        return None


def explain_absence(group: Any, path: str) -> str:
    """Why get_node() finds no array at `path`, one phrase: a codec that is not installed, say."""
    try:
        group[path]
    except KeyError:
        return "there is none"
    except Exception as error:  # as in get_node()
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    return "it is no array"


def get_group(group: Any, path: str) -> Any:
    """The group at `path` below `group`; None where there is none."""
    node = get_node(group, path)
    return node if is_group(node) else None


def is_group(node: Any) -> bool:
    """Whether `node` is a group and no array."""
    return hasattr(node, "create_group") or isinstance(node, ImplicitGroup)


def iterate_children(files: ZarrFiles, group: Any) -> Iterator[tuple[str, Any]]:
    """(name, group or array) of what is in `group`, by name; None in place of what is broken."""
    for number, name in enumerate(files.list_folders(group.path)):
        if number > MAX_NODES:
            raise ReadError(f"a Zarr group of over {MAX_NODES:,} arrays is not read")
        path = f"{group.path}/{name}" if group.path else name
        if any(files.is_file(f"{path}/{document}") for document in _NODE_NAMES):
            yield name, get_node(group, name)
        elif files.list_folders(path):
            yield name, ImplicitGroup(group.store, path)


def iterate_arrays(files: ZarrFiles, group: Any) -> Iterator[Any]:
    """Every array in `group` and in its groups."""
    stack = [group]
    count = 0
    while stack:
        for _, node in iterate_children(files, stack.pop()):
            count += 1
            if count > MAX_NODES:
                raise ReadError(f"a Zarr hierarchy of over {MAX_NODES:,} groups and arrays is not read")
            if is_group(node):
                stack.append(node)
            elif node is not None:
                yield node
