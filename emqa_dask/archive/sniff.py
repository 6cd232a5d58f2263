"""Format of a file by its first bytes, or by its suffix if the bytes are not conclusive."""

import re

from emqa_dask.archive.formats.mrc_header import parse_header
from emqa_dask.archive.formats.netpbm import NETPBM_START

HEAD_BYTES = 2**14  # HDF5 may begin behind a block of 8 KiB

# Content that starts with these bytes is in this format, whatever the file is called.
_MAGIC = (
    (b"II*\x00", "TIFF"), (b"MM\x00*", "TIFF"), (b"II+\x00", "TIFF"), (b"MM\x00+", "TIFF"),
    (b"\x89PNG\r\n\x1a\n", "PNG"), (b"\xff\xd8\xff", "JPEG"), (b"GIF87a", "GIF"), (b"GIF89a", "GIF"),
    (b"\x89HDF\r\n\x1a\n", "HDF5"), (b"II\x97\x01", "SER"), (b"JK\x00\x02", "EMI"),
    (b"\x00\x05\x16\x07", "resource fork"), (b"PK\x03\x04", "ZIP"), (b"PK\x05\x06", "ZIP"), (b"\x1f\x8b", "gzip"),
    (b"7z\xbc\xaf\x27\x1c", "7z"), (b"Rar!", "RAR"), (b"\xfd7zXZ", "xz"), (b"%PDF", "PDF"), (b"\x7fELF", "ELF"),
    (b"MZ", "Windows program"), (b"\xd0\xcf\x11\xe0", "OLE document"), (b"\x93NUMPY", "NumPy"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"SQLite format 3", "SQLite"), (b"\x28\xb5\x2f\xfd", "zstd"),
)  # fmt: skip
IMAGE_FORMATS = ("TIFF", "PNG", "JPEG", "GIF", "BMP", "WebP", "HDF5", "SER", "MRC", "DM3", "DM4", "JEOL image",
                 "NumPy", "JPEG 2000", "Netpbm")  # fmt: skip
AMBIGUOUS_SUFFIXES = (".map",)  # also of files that are no images: such a file did not fail
PACKERS = ("gzip", "bzip2", "xz", "zstd")  # they pack one file, which may be an image
ARCHIVE_FORMATS = ("ZIP", "gzip", "7z", "RAR", "xz", "zstd", "bzip2")
SUFFIXES = {
    ".tif": "TIFF", ".tiff": "TIFF", ".btf": "TIFF", ".tf8": "TIFF", ".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG",
    ".jpe": "JPEG", ".gif": "GIF", ".bmp": "BMP", ".webp": "WebP", ".mrc": "MRC", ".mrcs": "MRC", ".map": "MRC",
    ".st": "MRC", ".ali": "MRC", ".rec": "MRC", ".preali": "MRC", ".dm3": "DM3", ".dm4": "DM4", ".ser": "SER",
    ".emi": "EMI", ".emd": "HDF5", ".h5": "HDF5", ".hdf5": "HDF5", ".hspy": "HDF5", ".nxs": "HDF5", ".de5": "HDF5",
    ".dm5": "HDF5", ".ims": "HDF5", ".elid": "ELID",
    ".npy": "NumPy", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jpx": "JPEG 2000", ".jpf": "JPEG 2000",
    ".j2c": "JPEG 2000", ".jpc": "JPEG 2000", ".jph": "JPEG 2000", ".pgm": "Netpbm", ".ppm": "Netpbm",
    ".pnm": "Netpbm", ".pbm": "Netpbm", ".pam": "Netpbm", ".pfm": "Netpbm", ".ndata1": "HDF5",
}  # fmt: skip
# Formats of rarer instruments, known by suffix alone: suffix -> (name, RosettaSciIO plug-in).
RARE_FORMATS = {
    ".bcf": ("BCF", "bruker"), ".spx": ("SPX", "bruker"), ".blo": ("BLO", "blockfile"), ".rpl": ("RPL", "ripple"),
    ".unf": ("Semper", "semper"), ".mrcz": ("MRCZ", "mrcz"), ".prz": ("PRZ", "pantarhei"), ".spd": ("SPD", "edax"),
    ".spc": ("SPC", "edax"), ".tvips": ("TVIPS", "tvips"), ".sur": ("SUR", "digitalsurf"), ".msa": ("MSA", "msa"),
    ".dens": ("DENS", "dens"), ".asw": ("JEOL ASW", "jeol"), ".pts": ("JEOL PTS", "jeol"), ".eds": ("JEOL EDS", "jeol"),
}  # fmt: skip
TEXT_SUFFIXES = (".txt", ".md", ".csv", ".tsv", ".json", ".xml", ".toml", ".yaml", ".yml", ".py", ".html", ".log",
                 ".ini", ".hdr", ".rst", ".cfg", ".bib", ".tex", ".js", ".sh", ".ipynb")  # fmt: skip


def detect_format(head: bytes, n_bytes: int, suffix: str) -> str | None:
    """Format by content: `head` is the first HEAD_BYTES of a file of `n_bytes`; None where the bytes say nothing."""
    if n_bytes == 0:
        return "empty"
    for magic, name in _MAGIC:
        if head.startswith(magic) and not (magic == b"MZ" and _is_text(head)):
            return name
    if re.match(rb"4\0\0\0[\x20-\x7e]{4,31}\0", head):  # "JED-2200:LibJxImageForm"
        return "JEOL image"
    if NETPBM_START.match(head):
        return "Netpbm"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if re.match(rb"BZh[1-9]1AY&SY", head):
        return "ELID" if suffix == ".elid" else "bzip2"
    if (
        head[:2] == b"BM"
        and len(head) >= 26
        and int.from_bytes(head[14:18], "little") in (12, 40, 52, 56, 64, 108, 124)
    ):
        return "BMP"
    if head[:4] == b"\x00\x00\x00\x03" and head[8:12] in (b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"):
        return "DM3"
    if head[:4] == b"\x00\x00\x00\x04" and head[12:16] in (b"\x00\x00\x00\x01", b"\x00\x00\x00\x00"):
        return "DM4"
    if any(head[k : k + 8] == b"\x89HDF\r\n\x1a\n" for k in (512, 1024, 2048, 4096, 8192)):
        return "HDF5"
    record = parse_header(head)
    if record is not None and (record["map"][:3] == b"MAP" or SUFFIXES.get(suffix) == "MRC"):
        return "MRC"
    return "text" if _is_text(head) else None


def _is_text(head: bytes) -> bool:
    """Printable UTF-8, UTF-16 with its mark, or Latin-1 without control characters."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return True
    controls = sum(head.count(bytes([c])) for c in (*range(0, 7), 11, *range(14, 27), 28, 29, 30, 31))
    if controls:
        return False
    try:
        head[: len(head) - 4 if len(head) == HEAD_BYTES else None].decode("utf-8")
    except UnicodeDecodeError as error:
        return sum(b > 127 for b in head) < 0.1 * len(head) and error.start > 0
    return True
