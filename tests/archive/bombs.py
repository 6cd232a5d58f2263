"""Files that are small on disk and would be gigabytes in memory: {name: how to write it}. Sparse ones take no room."""

import bz2
import gzip
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import imagecodecs
import numpy as np
import zarr
from bad_files import write_mrc

BIG = 2**29
SPARSE = 5 * 2**26  # bytes of files that are hashed in full
SIDE = 64  # of images that say they are small


def zeros(n_bytes: int, as_gzip: bool = False) -> bytes:
    """`n_bytes` zeros, deflated a thousandfold: one block, over and over."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    raw = (packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)) * (n_bytes // len(block)) + b"\x03\0"
    if not as_gzip:
        return b"\x78\x9c" + raw + struct.pack(">HH", n_bytes % 65521, 1)
    crc = 0
    for _ in range(n_bytes // len(block)):
        crc = zlib.crc32(block, crc)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + raw + struct.pack("<II", crc, n_bytes % 2**32)


def png(path: Path, side: int, depth: int, *chunks: tuple[bytes, bytes], data: bytes = b"") -> None:
    header = struct.pack(">IIBBBBB", side, side, depth, 0, 0, 0, 0)
    data = data or zlib.compress(bytes(side * (side * depth // 8 + 1)))
    out = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")):
        out += struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
    path.write_bytes(out)


def tiff(path: Path, height: int, width: int, *, rows: int, offsets, sizes, data=b"", compression=1, tags=(), size=0):
    """One page; offsets and sizes are a value, or (count, where the list lies)."""
    fields = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1),
              (273, 4, *offsets), (277, 3, 1, 1), (278, 4, 1, rows), (279, 4, *sizes), *tags]  # fmt: skip
    ifd = b"".join(struct.pack("<HHII", *field) for field in sorted(fields))
    with open(path, "wb") as file:
        file.write(b"II*\0" + struct.pack("<IH", 8, len(fields)) + ifd + bytes(4))
        file.seek(4096)
        file.write(data)
        file.truncate(max(size, file.tell()))


def tiff_strip(compression: int, pack: Callable[[], bytes]) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        data = pack()
        tiff(path, SIDE, SIDE, rows=SIDE, offsets=(1, 4096), sizes=(1, len(data)), data=data, compression=compression)

    return write


def many_pages(path: Path) -> None:
    n = 400_000
    ifd = 2 + 4 * 12 + 4
    page = [(256, 4, 1, 1), (257, 4, 1, 1), (273, 4, 1, 0), (279, 4, 1, 1)]
    body = struct.pack("<H", 4) + b"".join(struct.pack("<HHII", *field) for field in page)
    path.write_bytes(
        b"II*\0" + struct.pack("<I", 8) + b"".join(body + struct.pack("<I", 8 + (k + 1) * ifd) for k in range(n))
    )


def hdf5(path: Path, fill: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "w") as file:
        fill(file)


def hdf5_chunk(file: h5py.File, name: str = "image") -> None:
    made = file.create_dataset(name, (SIDE, SIDE), "u1", chunks=(SIDE, SIDE), compression="gzip")
    made.id.write_direct_chunk((0, 0), zeros(BIG))


def hspy(file: h5py.File, data: Callable[[h5py.Group], None]) -> None:
    file.attrs["file_format"] = "HyperSpy"
    file.attrs["file_format_version"] = "3.3"
    group = file.create_group("Experiments/image")
    data(group)
    group.create_group("metadata"), group.create_group("original_metadata")
    for k in range(2):
        axis = group.create_group(f"axis-{k}")
        axis.attrs.update({"scale": 1.0, "offset": 0.0, "size": SIDE, "units": "nm", "name": "x", "navigate": False})


def zarr_v2(path: Path, chunk: bytes, shape=(SIDE, SIDE), chunks=(SIDE, SIDE), **changes) -> None:
    path.mkdir()
    array = {"zarr_format": 2, "shape": shape, "chunks": chunks, "dtype": "|u1", "fill_value": 0, "order": "C",
             "filters": None, "compressor": None}  # fmt: skip
    (path / ".zarray").write_text(json.dumps(array | changes))
    (path / ".".join("0" * len(shape))).write_bytes(chunk)


def zarr_v3(path: Path, chunk: bytes, codec: str, shape=(SIDE, SIDE), chunks=(SIDE, SIDE)) -> None:
    codecs = {"gzip": zarr.codecs.GzipCodec(), "zstd": zarr.codecs.ZstdCodec()}
    zarr.create_array(str(path), shape=shape, chunks=chunks, dtype="u1", compressors=[codecs[codec]], fill_value=0)
    (path / "c" / "/".join("0" * len(shape))).parent.mkdir(parents=True)
    (path / "c" / "/".join("0" * len(shape))).write_bytes(chunk)


def sparse_mrc(path: Path) -> None:
    write_mrc(path, np.zeros((1, 1, 1), np.int8))
    data = bytearray(path.read_bytes())
    data[8:12] = struct.pack("<i", 2**25)
    path.write_bytes(data)
    with open(path, "r+b") as file:
        file.truncate(2**25 + 1024)


def zip_of(path: Path, name: str, data: bytes, stated_bytes: int | None = None) -> None:
    """A ZIP archive of one member, whose directory may state another size than its data unpack to."""
    packed = zeros(BIG)[2:-4] if data == b"zeros" else data
    method = DEFLATE if data == b"zeros" else 0
    size = BIG if stated_bytes is None and method else stated_bytes or len(data)
    fields = struct.pack("<HHHHHIIIHH", 20, 0, method, 0, 0, 0, len(packed), size, len(name), 0)
    local = b"PK\3\4" + fields + name.encode() + packed
    entry = b"PK\1\2" + struct.pack("<H", 20) + fields + struct.pack("<HHHII", 0, 0, 0, 0, 0) + name.encode()
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local), 0)
    path.write_bytes(local + entry + end)


def npy_header(shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def packed_mrc(path: Path) -> None:
    """Zeros in gzip behind a header of an MRC that is small."""
    write_mrc(path, np.zeros((1, SIDE, SIDE), np.int8))
    head = path.read_bytes()
    path.write_bytes(gzip.compress(head) + zeros(6 * BIG, as_gzip=True))


def sharded_zarr(path: Path) -> None:
    """A shard whose only chunk unpacks to zeros, far more than its 64 x 64 pixels."""
    zarr.create_array(str(path), shape=(SIDE, SIDE), chunks=(SIDE, SIDE), shards=(SIDE, SIDE), dtype="u1",
                      compressors=[zarr.codecs.GzipCodec()], fill_value=0)  # fmt: skip
    chunk = zeros(BIG, as_gzip=True)
    index = struct.pack("<QQ", 0, len(chunk))
    (path / "c" / "0").mkdir(parents=True)
    (path / "c" / "0" / "0").write_bytes(chunk + index + struct.pack("<I", crc32c(index)))


def crc32c(data: bytes) -> int:
    """CRC-32C, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def jpeg_2000(path: Path, side: int = 60_000) -> None:
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((SIDE, SIDE), np.uint8), codecformat="j2k", level=0))
    struct.pack_into(">2I", data, 8, side, side)
    path.write_bytes(data)


def sparse_file(path: Path, head: bytes, size: int) -> None:
    with open(path, "wb") as file:
        file.write(head)
        file.truncate(size)


DEFLATE = 8
BOMBS: dict[str, Callable[[Path], object]] = {
    "large.png": lambda p: png(p, 60_000, 8, data=zeros(BIG)),
    "data.png": lambda p: png(p, SIDE, 8, data=zeros(BIG)),
    "data16.png": lambda p: png(p, SIDE, 16, data=zeros(BIG)),
    "text.png": lambda p: png(p, SIDE, 8, (b"zTXt", b"a\0\0" + zeros(BIG))),
    "text16.png": lambda p: png(p, SIDE, 16, (b"zTXt", b"a\0\0" + zeros(BIG))),
    "profile.png": lambda p: png(p, SIDE, 8, (b"iCCP", b"a\0\0" + zeros(BIG))),
    "profile16.png": lambda p: png(p, SIDE, 16, (b"iCCP", b"a\0\0" + zeros(BIG))),
    "deflate.tif": tiff_strip(DEFLATE, lambda: zeros(BIG)),
    "zstd.tif": tiff_strip(50000, lambda: imagecodecs.zstd_encode(bytes(BIG))),
    "lzma.tif": tiff_strip(34925, lambda: imagecodecs.lzma_encode(bytes(BIG // 4))),
    "packbits.tif": tiff_strip(32773, lambda: b"\x81\0" * (BIG // 128)),
    "strip.tif": lambda p: tiff(p, SIDE, SIDE, rows=SIDE, offsets=(1, 4096), sizes=(1, SPARSE), compression=DEFLATE,
                                size=SPARSE),
    "strips.tif": lambda p: tiff(p, 2**24, 1, rows=1, offsets=(2**24, 4096), sizes=(2**24, 4096),
                                 compression=DEFLATE, size=2**27),
    "tag.tif": lambda p: tiff(p, SIDE, SIDE, rows=SIDE, offsets=(1, 4096), sizes=(1, SIDE * SIDE),
                              tags=[(270, 2, SPARSE, 4096)], size=SPARSE + 4096),
    "numbers.tif": lambda p: tiff(p, SIDE, SIDE, rows=SIDE, offsets=(1, 4096), sizes=(1, SIDE * SIDE),
                                  tags=[(65000, 12, SPARSE // 8, 4096)], size=SPARSE + 4096),
    "pages.tif": many_pages,
    "sections.mrc": sparse_mrc,
    "chunk.h5": lambda p: hdf5(p, hdf5_chunk),
    "frames.h5": lambda p: hdf5(p, lambda f: f.create_dataset("s", (2**40, 8, 8), "u1", chunks=(1, 8, 8))),
    "chunk.hspy": lambda p: hdf5(p, lambda f: hspy(f, lambda g: hdf5_chunk(g, "data"))),
    "learning.hspy": lambda p: hdf5(p, lambda f: hspy(f, lambda g: (
        g.create_dataset("data", data=np.ones((SIDE, SIDE))),
        g.create_dataset("learning_results/factors", (2**29,), "f8", chunks=(2**20,))))),
    "metadata.emd": lambda p: hdf5(p, lambda f: (
        f.create_dataset("Version", data=[b'{"version": "1.7"}']),
        f.create_dataset("Data/Image/0/Data", data=np.ones((SIDE, SIDE, 1), "u2")),
        f.create_dataset("Data/Image/0/Metadata", (2**32, 1), "u1", chunks=(2**20, 1)))),
    "zlib.zarr": lambda p: zarr_v2(p, zeros(BIG), compressor={"id": "zlib", "level": 1}),
    "gzip2.zarr": lambda p: zarr_v2(p, zeros(BIG, True), compressor={"id": "gzip", "level": 1}),
    "twice.zarr": lambda p: zarr_v2(p, zlib.compress(zeros(BIG)), compressor={"id": "zlib", "level": 1},
                                    filters=[{"id": "zlib", "level": 1}]),
    "bz2.zarr": lambda p: zarr_v2(p, bz2.compress(bytes(2**24)) * 32, compressor={"id": "bz2", "level": 9}),
    "zstd2.zarr": lambda p: zarr_v2(p, imagecodecs.zstd_encode(bytes(BIG)), compressor={"id": "zstd", "level": 1}),
    "gzip.zarr": lambda p: zarr_v3(p, zeros(BIG, True), "gzip"),
    "zstd.zarr": lambda p: zarr_v3(p, imagecodecs.zstd_encode(bytes(BIG)), "zstd"),
    "frames.zarr": lambda p: zarr_v2(p, b"", shape=(2**40, SIDE, SIDE), chunks=(1, SIDE, SIDE)),
    "shard.zarr": sharded_zarr,
    "raw.zarr": lambda p: (zarr_v2(p, b""), sparse_file(p / "0.0", b"", BIG)),
    "lie.zarr.zip": lambda p: zip_of(p, ".zarray", b"zeros", 200),
    "large.zarr.zip": lambda p: zip_of(p, ".zarray", b"zeros"),
    "member.npz": lambda p: zip_of(p, "a.npy", b"zeros"),
    "shape.npz": lambda p: zip_of(p, "a.npy", npy_header((60_000, 60_000))),
    "shape.npy": lambda p: p.write_bytes(npy_header((60_000, 60_000))),
    "sparse.npy": lambda p: sparse_file(p, npy_header((60_000, 60_000)), 60_000 * 60_000 + 256),
    "stream.mrc.gz": packed_mrc,
    "large.j2k": jpeg_2000,
    "wide.j2k": lambda p: jpeg_2000(p, 15_900),
    "trailing.pgm": lambda p: sparse_file(p, b"P2 64 64 255 ", BIG),
    "sparse.pgm": lambda p: sparse_file(p, b"P5 60000 60000 255 ", 60_000 * 60_000 + 256),
    "text.pgm": lambda p: sparse_file(p, b"P2 60000 60000 255 ", 2**33),
    "chunk.zarr": lambda p: zarr_v2(p, b"", shape=(SIDE, SIDE), chunks=(2**20, 2**13)),
}  # fmt: skip
