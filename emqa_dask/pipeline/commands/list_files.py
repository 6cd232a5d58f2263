"""emqa list: the files of an archive by verdict and reason."""

import os
from collections.abc import Callable

from emqa_dask.archive.name_escapes import unescape_name
from emqa_dask.pipeline.workspace import micrograph_ledger, preconditions
from emqa_dask.pipeline.workspace.image_selection import ImageSelection, Query
from emqa_dask.store import digests, marker
from emqa_dask.store.digests import DigestSet
from emqa_dask.store.layout import Workspace
from emqa_dask.store.marker import Sources

PATH_COLUMNS = ("micrograph_id", "path")


def list_files(root: str, query: Query, write: Callable[[bytes], object], end: bytes = b"\n") -> int:
    """Exit code 0. Writes the path of each file with a row of `query`, once, followed by `end`.

    Files with micrographs come in the ledger's order, then files without, in that of their URIs. Memory holds 32 bytes
    for each.
    """
    workspace = Workspace(root)
    sources = marker.read_sources(root)
    preconditions.require_tables(workspace, sources)
    selection = ImageSelection(workspace, query)
    listed_paths = DigestSet()
    for _, rows in micrograph_ledger.iter_partitions(workspace, PATH_COLUMNS):
        verdicts, _ = selection.look_up(rows["micrograph_id"])
        paths = [path for path, verdict in zip(rows["path"], verdicts, strict=True) if verdict is not None]
        is_new = listed_paths.add(digests.digest_texts(paths)) if paths else ()
        write(b"".join(_encode(path) + end for path, is_first in zip(paths, is_new, strict=True) if is_first))
    for rows in query.iterate_rows(workspace, ("micrograph_id", "uri")):
        uris = rows.loc[rows["micrograph_id"].isna(), "uri"]
        write(b"".join(_encode(_locate_file(uri, sources)) + end for uri in uris))
    return 0


def _encode(path: str) -> bytes:
    """The bytes of a path, also of one whose name is no UTF-8."""
    return os.fsencode(unescape_name(path))


def _locate_file(uri: str, sources: Sources) -> str:
    """The path of a file without micrographs: in its source if that is a folder, else its URI."""
    for source, name in sources.items():
        is_folder = "://" in source or os.path.isdir(source)
        if not name or uri.startswith(f"{name}/"):
            inner_uri = uri[len(name) + 1 :] if name else uri
            return f"{source.rstrip('/')}/{inner_uri}" if is_folder else source
    return uri
