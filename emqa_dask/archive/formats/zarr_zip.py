"""A Zarr hierarchy in a ZIP archive, as a store of zarr-python that never unpacks more than a member states."""

from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from emqa_dask.archive.checks.zarr_files import ZippedFiles


class ZippedStore(Store):
    """Reads the files of `files`; no file stays open. zarr-python's own ZipStore trusts what the archive states."""

    supports_writes = False
    supports_deletes = False
    supports_partial_writes = False
    supports_listing = True

    def __init__(self, files: ZippedFiles):
        super().__init__(read_only=True)
        self.files = files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ZippedStore) and self.files is other.files

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if not self.files.is_file(key):
            return None
        size = self.files.get_size(key)
        start = 0
        stop = size
        if isinstance(byte_range, RangeByteRequest):
            start = byte_range.start
            stop = byte_range.end
        elif isinstance(byte_range, OffsetByteRequest):
            start = byte_range.offset
        elif byte_range is not None:
            start = max(0, size - byte_range.suffix)
        return prototype.buffer.from_bytes(self.files.read(key, max(0, stop - start), start))

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, byte_range) for key, byte_range in key_ranges]

    async def exists(self, key: str) -> bool:
        return self.files.is_file(key)

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def list(self) -> AsyncIterator[str]:
        for name in self.files.members:
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for name in self.files.members:
            if name.startswith(prefix):
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in self.files.children.get(prefix.rstrip("/"), ()):
            yield name
