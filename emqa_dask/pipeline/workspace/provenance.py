"""provenance.json: the origin of the outputs of a workspace, and their digests."""

import hashlib
import json
from collections.abc import Iterable

from emqa_dask.checksummed_text import hash_document
from emqa_dask.store import files, parts
from emqa_dask.store.layout import Workspace

_BLOCK_BYTES = 2**22


def write(workspace: Workspace, facts: dict, outputs: Iterable[str]) -> None:
    """Writes `facts` with the digests of the files `outputs`, and the digest of the document."""
    digests = {uri.removeprefix(workspace.uri).strip("/"): digest_of(uri) for uri in outputs}
    document = facts | {"outputs": digests}
    parts.write_json(workspace.provenance, document | {"sha256": hash_document(document)})


def read(workspace: Workspace) -> dict:
    """The document that `write` has written; empty where it is missing or damaged."""
    try:
        document = json.loads(files.read_bytes(workspace.provenance))
        digest = document.pop("sha256")
    except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return document if digest == hash_document(document) else {}


def find_damaged_outputs(workspace: Workspace, document: dict) -> list[str]:
    """Outputs that are missing or whose digest differs from the one in `document`."""
    outputs = {files.join(workspace.uri, name): digest for name, digest in document.get("outputs", {}).items()}
    return [uri for uri, digest in outputs.items() if digest_of(uri) != digest]


def count_unfinished(workspace: Workspace) -> int:
    """Number of rows without results in the last report: unstored files and unfinished micrographs."""
    unknown = read(workspace).get("first_reasons", {}).get("unknown", {})
    return sum(unknown.get(reason, 0) for reason in ("not_stored", "not_judged"))


def digest_of(uri: str) -> str:
    """SHA-256 of a local file, or the version of a file in a bucket; empty for a missing file."""
    if not files.is_local(uri):
        return "-".join(map(str, read_file_version(uri)))
    sha256 = hashlib.sha256()
    try:
        with files.open_read(uri) as stream:
            while block := stream.read(_BLOCK_BYTES):
                sha256.update(block)
    except FileNotFoundError:
        return ""
    return sha256.hexdigest()


def read_file_version(uri: str) -> list:
    """A value that changes whenever the file is written, from its metadata; [] for a missing file."""
    fs, path = files.locate(uri)
    try:
        if files.is_local(uri):
            return [fs.size(path), files.read_modified_s(uri)]
        return [str(fs.checksum(path))]  # of a bucket's listing, not of the bytes
    except FileNotFoundError:
        return []
