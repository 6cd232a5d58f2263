"""make_bad_archive(): a folder of every kind of bad, odd and good input, and the status that each should get."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

NASTY = [
    "with space.tif", "it's \"quoted\".tif", "Größe µm 電子.tif", "new\nline.tif", "<script>alert(1)<script>.tif",
    "%s {0} $HOME.tif", "semi;colon&amp.tif", "back\\slash.tif", "-rf.tif", ".hidden.tif", "comma,tab\t.tif",
]  # fmt: skip


def image(seed: int, shape: tuple[int, int] = (48, 64), dtype: str = "uint16") -> np.ndarray:
    """A small noisy image with a few blobs: (height, width) of `dtype`."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    blobs = sum(np.exp(-((y - a) ** 2 + (x - b) ** 2) / 18) for a, b in rng.uniform(5, 40, (4, 2)))
    values = 100 + 60 * blobs + rng.normal(0, 5, shape)
    top = np.iinfo(dtype).max / 255 if np.dtype(dtype).kind in "iu" else 1.0
    return np.clip(values * top * 0.8, 0, 255 * top).astype(dtype)


def write_mrc(path: Path, stack: np.ndarray, angstrom: float = 2.0) -> None:
    """A minimal MRC2014 file of (n, y, x) int8, int16, float32 or uint16 pixels."""
    mode = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}[stack.dtype.name]
    n, h, w = stack.shape
    header = struct.pack("<10i3f3f3i", w, h, n, mode, 0, 0, 0, w, h, n, w * angstrom, h * angstrom, n * angstrom,
                         90, 90, 90, 1, 2, 3)  # fmt: skip
    header = header.ljust(208, b"\0") + b"MAP " + b"\x44\x44\0\0"
    path.write_bytes(header.ljust(1024, b"\0") + np.ascontiguousarray(stack).tobytes())


def dm3(pixels: np.ndarray) -> bytes:
    """A minimal DM3 file of one int16 image, its scale 0.5 nm."""
    out = io.BytesIO()

    def group(name: str, n: int) -> None:
        head = b"\x14" + struct.pack(">H", len(name)) + name.encode() if name is not None else b""
        out.write(head + struct.pack(">??I", False, False, n))

    def value(name: str, kind: int, data: bytes) -> None:
        out.write(b"\x15" + struct.pack(">H", len(name)) + name.encode() + b"%%%%" + struct.pack(">II", 1, kind) + data)

    def array(name: str, kind: int, n: int, data: bytes) -> None:
        out.write(b"\x15" + struct.pack(">H", len(name)) + name.encode() + b"%%%%")
        out.write(struct.pack(">IIII", 3, 20, kind, n) + data)

    out.write(struct.pack(">??I", False, False, 1))
    group("ImageList", 1)
    group("", 3)
    group("ImageData", 5)
    group("Calibrations", 2)
    for name, entries in (("Brightness", 1), ("Dimension", 2)):
        group(name, entries if name == "Dimension" else 3)
        for _ in range(entries):
            if name == "Dimension":
                group("", 3)
            value("Origin", 6, struct.pack("<f", 0.0))
            value("Scale", 6, struct.pack("<f", 0.5))
            units = "nm".encode("utf-16-le") if name == "Dimension" else b""
            array("Units", 4, len(units) // 2, units)
    array("Data", 2, pixels.size, pixels.tobytes())
    value("DataType", 3, struct.pack("<i", 1))
    group("Dimensions", 2)
    value("", 5, struct.pack("<I", pixels.shape[1]))
    value("", 5, struct.pack("<I", pixels.shape[0]))
    value("PixelDepth", 5, struct.pack("<I", 2))
    group("ImageTags", 0)
    array("Name", 4, 1, "x".encode("utf-16-le"))
    body = out.getvalue() + bytes(8)
    return struct.pack(">III", 3, len(body), 1) + body


def make_bad_archive(folder: Path) -> dict[str, str]:
    """Write the files below `folder` (made if absent); {archive-relative URI: expected status} for every one of them.

    Nothing here needs more than a few MB on disk: the 40,000 x 40,000 TIFF is sparse.
    """
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, str] = {}
    for write in (_broken, _misnamed, _odd_pixels, _odd_names, _same, _no_images, _links):
        expected |= write(folder)
    return expected


def _broken(folder: Path) -> dict[str, str]:
    tifffile.imwrite(folder / "whole.tif", image(1))
    whole = (folder / "whole.tif").read_bytes()
    (folder / "truncated.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "zero.tif").write_bytes(b"")
    (folder / "zero").write_bytes(b"")
    (folder / "text.tif").write_text("These are notes, not an image.\n")
    (folder / "noise.tif").write_bytes(np.random.default_rng(2).bytes(5000))
    Image.fromarray(image(3, dtype="uint8")).save(folder / "whole.jpg", quality=90)
    jpeg = (folder / "whole.jpg").read_bytes()
    (folder / "broken.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    Image.fromarray(image(4, dtype="uint8")).save(folder / "whole.png")
    png = (folder / "whole.png").read_bytes()
    (folder / "broken.png").write_bytes(png[: len(png) // 2])
    write_mrc(folder / "whole.mrc", image(5, dtype="int16")[None])
    mrc = (folder / "whole.mrc").read_bytes()
    (folder / "truncated.mrc").write_bytes(mrc[:3000])
    (folder / "broken.dm3").write_bytes(b"\0\0\0\3" + b"\0\0\1\0" + b"\0\0\0\1" + bytes(range(200)))
    (folder / "broken.emd").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    write_mrc(folder / "lost_section.mrcs", np.stack([image(k, dtype="int16") for k in (6, 7, 8)]))
    stack = (folder / "lost_section.mrcs").read_bytes()
    (folder / "lost_section.mrcs").write_bytes(stack[: -48 * 64])
    ok = dict.fromkeys(("whole.tif", "whole.jpg", "whole.png", "whole.mrc", "lost_section.mrcs"), "ok")
    bad = ("truncated.tif", "zero.tif", "zero", "text.tif", "noise.tif", "broken.jpg", "broken.png", "truncated.mrc",
           "broken.dm3", "broken.emd")  # fmt: skip
    return ok | dict.fromkeys(bad, "failed")


def _misnamed(folder: Path) -> dict[str, str]:
    Image.fromarray(image(11, dtype="uint8")).save(folder / "png_named.tif", format="PNG")
    with open(folder / "tiff_named.jpg", "wb") as file:
        tifffile.imwrite(file, image(12))
    write_mrc(folder / "mrc_named.dm3", image(13, dtype="float32")[None])
    with open(folder / "no_suffix", "wb") as file:
        tifffile.imwrite(file, image(14))
    return dict.fromkeys(("png_named.tif", "tiff_named.jpg", "mrc_named.dm3", "no_suffix"), "ok")


def _odd_pixels(folder: Path) -> dict[str, str]:
    odd = image(21, dtype="float32")
    odd[3, 4:9] = np.nan
    odd[5, 5] = np.inf
    odd[6, 6] = -np.inf
    tifffile.imwrite(folder / "nan_inf.tif", odd)
    tifffile.imwrite(folder / "all_nan.tif", np.full((16, 16), np.nan, np.float32))
    tifffile.imwrite(folder / "constant.tif", np.full((32, 32), 7, np.uint8))
    tifffile.imwrite(folder / "one_by_one.tif", np.array([[3]], np.uint16))
    tifffile.imwrite(folder / "one_by_100000.tif", np.arange(100_000, dtype=np.uint16)[None])
    tifffile.imwrite(folder / "100000_by_one.tif", np.arange(100_000, dtype=np.uint16)[:, None])
    sparse_tiff(folder / "sparse_40000.tif", 40_000, 40_000)
    ok = ("nan_inf.tif", "all_nan.tif", "constant.tif", "one_by_one.tif", "one_by_100000.tif", "100000_by_one.tif")
    return dict.fromkeys(ok, "ok") | {"sparse_40000.tif": "failed"}


def sparse_tiff(path: Path, height: int, width: int) -> None:
    """An 8-bit TIFF of height x width whose one strip is a hole in the file: it takes no room on disk."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 4096), (277, 3, 1),
            (278, 4, height), (279, 4, height * width)]  # fmt: skip
    ifd = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    with open(path, "wb") as file:
        file.write(b"II*\0" + struct.pack("<IH", 8, len(tags)) + ifd + bytes(4))
        file.truncate(4096 + height * width)


def _odd_names(folder: Path) -> dict[str, str]:
    names = folder / "names"
    names.mkdir()
    for k, name in enumerate(NASTY):
        tifffile.imwrite(names / "plain.tif", image(30 + k))
        (names / "plain.tif").rename(names / name)
    with open(os.fsencode(names) + b"/latin-\xb5m.tif", "wb") as file:
        file.write((names / NASTY[0]).read_bytes())
    return {f"names/{name}": "ok" for name in [*NASTY, "latin-\\xb5m.tif"]}


def _same(folder: Path) -> dict[str, str]:
    for name, seed in (("a", 50), ("b", 51)):
        (folder / name).mkdir()
        tifffile.imwrite(folder / name / "image.tif", image(seed))
    (folder / "b" / "copy.tif").write_bytes((folder / "b" / "image.tif").read_bytes())
    return dict.fromkeys(("a/image.tif", "b/image.tif", "b/copy.tif"), "ok")


def _no_images(folder: Path) -> dict[str, str]:
    (folder / "notes.txt").write_text("Session notes\n")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100))
    (folder / "old.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    (folder / "program").write_bytes(b"\x7fELF" + bytes(60))
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "._whole.tif").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00" + bytes(100))
    names = ("notes.txt", "Thumbs.db", "old.zip", "program", "__MACOSX/._whole.tif")
    return dict.fromkeys(names, "skipped")


def _links(folder: Path) -> dict[str, str]:
    links = folder / "links"
    links.mkdir()
    (links / "loop").symlink_to("..", target_is_directory=True)
    (links / "itself.tif").symlink_to("itself.tif")
    (links / "dangling.tif").symlink_to("nowhere.tif")
    (links / "good.tif").symlink_to("../whole.tif")
    os.mkfifo(links / "pipe.tif")
    names = ("loop", "itself.tif", "dangling.tif", "pipe.tif")
    return {f"links/{name}": "failed" for name in names} | {"links/good.tif": "ok"}
