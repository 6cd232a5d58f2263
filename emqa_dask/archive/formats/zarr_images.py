"""Zarr folders and Zarr in ZIP archives: OME-Zarr, HyperSpy, groups of arrays and single arrays -> frames."""

import json
import math
import zipfile
from pathlib import Path
from typing import Any

from emqa_dask.archive.axes import NoImage, count_planes
from emqa_dask.archive.checks import guards
from emqa_dask.archive.checks.zarr_chunks import check_blosc_file
from emqa_dask.archive.checks.zarr_files import METADATA_NAMES, FolderFiles, ZarrFiles, ZippedFiles
from emqa_dask.archive.checks.zarr_guard import check_zarr
from emqa_dask.archive.formats import ome_zarr
from emqa_dask.archive.formats.zarr_arrays import ZarrContents, identify_images, make_frames
from emqa_dask.archive.formats.zarr_groups import describe_array, read_group
from emqa_dask.archive.formats.zarr_nodes import ImplicitGroup, iterate_arrays
from emqa_dask.archive.source import Frame, ReadError, Source, add_damage, capture_warnings

MAX_NAMED_REMARKS = 3  # remarks about a plate of hundreds of wells stay one sentence
N5_REMEDY = "N5, which no reader here knows: convert it to Zarr (bigstream, n5-utils or zarr-python 2 can)"


def open_zarr_folder(path: Path) -> Source:
    """A Zarr folder -> Source; ReadError when it is broken."""
    files = FolderFiles(path)
    if files.is_file("attributes.json") and not any(files.is_file(name) for name in METADATA_NAMES):
        return Source("N5", "unknown", N5_REMEDY)
    return _open(files, str(path))


def open_zarr_zip(path: Path, members: list[zipfile.ZipInfo], prefix: str) -> Source:
    """The Zarr hierarchy below `prefix` of the ZIP archive at `path` -> Source; ReadError when it is broken."""
    from emqa_dask.archive.formats.zarr_zip import ZippedStore

    files = ZippedFiles(path, prefix, members)
    return _open(files, ZippedStore(files))


def find_zarr_prefix(names: list[str]) -> str | None:
    """The folder in a ZIP archive that is a Zarr hierarchy ("" for its root); None where there is none.

    Archives that were packed from outside of the folder hold it as their only folder.
    """
    roots = [name.rpartition("/")[0] for name in names if name.rpartition("/")[2] in METADATA_NAMES]
    root = min(roots, key=lambda folder: (folder.count("/") + (folder != ""), folder), default=None)
    if root is None:
        return None
    prefix = f"{root}/" if root else ""
    return prefix if all(name.startswith(prefix) for name in names if not name.startswith("__MACOSX/")) else None


def _open(files: ZarrFiles, store: Any) -> Source:
    with capture_warnings():
        try:
            check_zarr(files)
            return _open_node(files, _open_root(files, store))
        except ReadError:
            raise
        except Exception as error:  # foreign metadata: anything can come
            text = " ".join(str(error).split())[:200]
            raise ReadError(f"broken Zarr folder: {type(error).__name__}: {text}") from error


def _open_root(files: ZarrFiles, store: Any) -> Any:
    """The array or group at the root. Consolidated metadata are not used: they may differ from what was checked."""
    import zarr

    is_array = files.is_file(".zarray")
    if files.is_file("zarr.json"):
        is_array = json.loads(files.read("zarr.json", files.get_size("zarr.json"))).get("node_type") == "array"
    elif not is_array and not files.is_file(".zgroup"):
        return ImplicitGroup(store)
    if is_array:
        return zarr.open_array(store=store, mode="r")
    return zarr.open_group(store=store, mode="r", use_consolidated=False)


def _open_node(files: ZarrFiles, node: Any) -> Source:
    import zarr

    if isinstance(node, zarr.Array):
        return _make_source(files, "Zarr", ZarrContents([describe_array(node)]))
    if str(node.attrs.get("file_format", "")).lower() == "zspy":
        return _open_zspy(files, node)
    if "n5" in node.attrs:
        return Source("N5", "unknown", N5_REMEDY)
    is_ome = ome_zarr.is_ome_group(node, files)
    contents = ome_zarr.read_ome_group(node, files) if is_ome else read_group(node, files)
    return _make_source(files, "OME-Zarr" if is_ome else "Zarr", contents)


def _make_source(files: ZarrFiles, format: str, contents: ZarrContents) -> Source:
    """Frames of all images; the reason names what was left out."""
    remarks = list(contents.remarks)
    kind = contents.kind
    frames: list[Frame] = []
    n_frames = 0
    for images in contents.images:
        axes = identify_images(images)
        if isinstance(axes, NoImage):
            kind = axes.kind
            remarks.append(axes.reason if len(contents.images) == 1 else f"{images.title} is {axes.reason}")
            continue
        n_frames += count_planes(images.array.shape, axes)
        guards.check_frames(n_frames)
        frames += make_frames(files, images, axes)
    reason = "; ".join(remarks[:MAX_NAMED_REMARKS])
    if len(remarks) > MAX_NAMED_REMARKS:
        reason += f"; {len(remarks) - MAX_NAMED_REMARKS} more"
    if not frames:
        if contents.n_frames_lost:
            raise ReadError(reason)
        return Source(format, kind, reason or "a Zarr group without any array")
    n_images = len(contents.images)
    if n_images > 1:
        reason = "; ".join(filter(None, (f"{len(frames):,} images of {n_images:,} arrays", reason)))
    kind = "stack" if len(frames) > 1 else "micrograph"
    return Source(format, kind, reason, tuple(frames), n_frames_lost=contents.n_frames_lost)


def _open_zspy(files: ZarrFiles, node: Any) -> Source:
    """HyperSpy's Zarr -> Source, by RosettaSciIO; its frames report absent chunks."""
    from rsciio.zspy._api import ZspyReader

    from emqa_dask.archive.formats.rosetta import make_source

    source = make_source(ZspyReader(node).read(lazy=True), "ZSPY")
    for array in iterate_arrays(files, node):
        if array.ndim < 2 or 0 in array.shape or array.shards is not None:
            continue
        if type(getattr(array.metadata, "compressor", None)).__name__ == "Blosc":
            _check_blosc_files(files, array.path)
        n_absent = math.prod(array.cdata_shape) - array.nchunks_initialized
        if n_absent > 0:
            sentence = f"{n_absent:,} of {array.nchunks:,} chunks of {array.path} are absent: they read as fill"
            source = add_damage(source, sentence, array.shape)
    return source


def _check_blosc_files(files: ZarrFiles, folder: str) -> None:
    for name in files.iterate_names():
        if name.startswith(f"{folder}/") and name.rpartition("/")[2] not in METADATA_NAMES:
            check_blosc_file(files, name)
