"""Files of a workspace, read and written whole or not at all, on a local disk or any fsspec file system."""

import contextlib
import io
import os
import posixpath
import re
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from typing import BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from emqa_dask import uris

# Uploads up to twice this size are one PUT; larger uploads are sent in pieces of it and aborted if one fails.
_UPLOAD_BYTES = 128 * 2**20
_PARTIAL = re.compile(r"\..+\.[0-9a-f]{12}\.partial", re.DOTALL)  # name of a file that is not whole yet

locate = uris.locate
redact = uris.redact


def is_local(uri: str) -> bool:
    """Whether `uri` is on a local disk."""
    return isinstance(locate(uri)[0], LocalFileSystem)


def join(root: str, *names: str) -> str:
    """`root` and `names` with forward slashes between them."""
    return posixpath.join(str(root), *names)


def exists(uri: str) -> bool:
    """Whether file `uri` exists."""
    fs, path = locate(uri)
    if "s3" not in fs.protocol:
        return fs.exists(path)
    bucket, key, _ = fs.split_path(path)
    try:  # fs.exists() would look for a folder of that name, too
        fs.call_s3("head_object", Bucket=bucket, Key=key)
    except FileNotFoundError:
        return False
    return True


def list_names(uri: str) -> list[str]:
    """Sorted names of the items in folder `uri`, without hidden and half-written files; empty without such a folder."""
    fs, path = locate(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            names = os.listdir(path)  # fsspec takes ten times as long
        else:
            names = [p.rstrip("/").rpartition("/")[2] for p in fs.ls(path, detail=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(name for name in names if name and not name.startswith("."))


def read_bytes(uri: str) -> bytes:
    """All bytes of file `uri`; FileNotFoundError when there is none."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with open(path, "rb") as stream:  # fsspec takes twice as long
            return stream.read()
    return fs.cat_file(path)


def open_read(uri: str) -> BinaryIO:
    """File `uri`, open for reading all or most of it; a bucket is asked once. FileNotFoundError when there is none."""
    fs, path = locate(uri)
    return open(path, "rb") if isinstance(fs, LocalFileSystem) else io.BytesIO(fs.cat_file(path))


@contextlib.contextmanager
def write_whole(uri: str) -> Iterator[BinaryIO]:
    """An open binary file that gets its name when the block ends without an exception.

    On a disk: write under a hidden name, fsync, rename. In a bucket: one upload at the end. An OSError (say, of a full
    disk) names the file and leaves no partial file.
    """
    fs, path = locate(uri)
    write = _write_local if isinstance(fs, LocalFileSystem) else _write_remote
    with write(fs, path) as stream:
        yield stream


@contextlib.contextmanager
def _write_local(
    fs: LocalFileSystem, path: str, publish: Callable[[str, str], None] = os.replace
) -> Iterator[BinaryIO]:
    folder, name = posixpath.split(path)
    partial = posixpath.join(folder, f".{name[:100]}.{uuid.uuid4().hex[:12]}.partial")
    try:
        os.makedirs(folder, exist_ok=True)
        with open(partial, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # else a power cut may leave the name with no bytes behind it
        publish(partial, path)
        _sync_folder(folder)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        if isinstance(error, OSError) and error.errno is not None and error.filename in (None, partial, folder):
            raise OSError(error.errno, f"could not write: {os.strerror(error.errno)}", path) from error
        raise


def _sync_folder(folder: str) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems cannot sync a folder
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _write_remote(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[BinaryIO]:
    # By way of a local file: not every fsspec file system can take back an upload that has begun.
    with tempfile.TemporaryDirectory() as folder:
        partial = os.path.join(folder, "partial")
        with open(partial, "w+b") as stream:
            yield stream
        fs.put_file(partial, path, **({"chunksize": _UPLOAD_BYTES} if "s3" in fs.protocol else {}))


def write_bytes(uri: str, data: bytes) -> None:
    """Write file `uri` whole or not at all."""
    fs, path = locate(uri)
    if isinstance(fs, LocalFileSystem):
        with _write_local(fs, path) as stream:
            stream.write(data)
    else:
        fs.pipe_file(path, data)


def create_exclusively(uri: str, data: bytes) -> bool:
    """Write file `uri` if there is none; of several simultaneous writers one succeeds. False when the file exists.

    A bucket without If-None-Match keeps the last of simultaneous uploads: read the file again after a moment.
    """
    fs, path = locate(uri)
    try:
        if isinstance(fs, LocalFileSystem):
            with _write_local(fs, path, _publish_exclusively) as stream:
                stream.write(data)
        else:
            fs.pipe_file(path, data, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if "pre-condition" not in str(error):  # what S3 says of If-None-Match
            raise
        return False
    return True


def _publish_exclusively(partial: str, path: str) -> None:
    """Give a whole file its name, if nothing has that name yet."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with open(partial, "rb") as partial_file, open(path, "xb") as stream:
            try:
                shutil.copyfileobj(partial_file, stream)
            except BaseException:
                os.unlink(path)
                raise
    os.unlink(partial)


def read_modified_s(uri: str) -> float:
    """Time of the last write to file `uri`, in seconds since 1970 by the clock of the disk or bucket."""
    fs, path = locate(uri)
    return os.stat(path).st_mtime if isinstance(fs, LocalFileSystem) else fs.modified(path).timestamp()


def write_text(uri: str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(uri, text.encode("utf-8"))


def remove_file(uri: str) -> None:
    """Delete file `uri` if it exists."""
    fs, path = locate(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm_file(path)


def remove_folder(uri: str) -> None:
    """Delete folder `uri` with all its files if it exists."""
    fs, path = locate(uri)
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def read_size(uri: str) -> int:
    """Size of file `uri` in bytes; 0 when there is none."""
    fs, path = locate(uri)
    try:
        return os.stat(path).st_size if isinstance(fs, LocalFileSystem) else int(fs.size(path))
    except FileNotFoundError:
        return 0


def move_file(uri: str, target: str) -> None:
    """Move file `uri` to `target`, which must not exist; without a file nothing happens."""
    fs, path = locate(uri)
    destination = locate(target)[1]
    if isinstance(fs, LocalFileSystem):
        os.makedirs(posixpath.dirname(destination), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.rename(path, destination)
    elif exists(uri):
        fs.mv(path, destination)


def copy_file(uri: str, target: str) -> None:
    """Copy file `uri` to `target`, whole or not at all."""
    with open_read(uri) as source, write_whole(target) as stream:
        shutil.copyfileobj(source, stream, 2**22)


def remove_partial_files(uri: str) -> None:
    """Delete files that killed writers have left half-written in folder `uri`; only its single writer may call this.

    Buckets have none: an upload that did not end is no file.
    """
    fs, path = locate(uri)
    if not isinstance(fs, LocalFileSystem):
        return
    with contextlib.suppress(FileNotFoundError), os.scandir(path) as items:
        for item in items:
            if _PARTIAL.fullmatch(item.name) and item.is_file(follow_symlinks=False):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(item.path)
