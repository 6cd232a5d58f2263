"""Micrographs written in the formats people have: TIFF (plain, ImageJ, FEI, OME, stacks), MRC, EMD, HSPY, PNG, JPEG."""

from pathlib import Path

import cv2
import h5py
import numpy as np
import tifffile

# Format -> suffix, dtypes it is written with, frames a file may have, whether it can carry the pixel size.
FORMATS = {
    "tiff": (".tif", ("uint16", "uint8"), 1, False),
    "imagej": (".tif", ("uint16", "float32"), 1, True),
    "fei": (".tif", ("uint16", "uint8"), 1, True),
    "ome": (".ome.tif", ("uint16", "float32"), 1, True),
    "mrc": (".mrc", ("float32", "uint16"), 1, True),
    "emd": (".emd", ("uint16", "float32"), 1, True),
    "hspy": (".hspy", ("float32", "uint16"), 1, True),
    "png": (".png", ("uint8",), 1, False),
    "png16": (".png", ("uint16",), 1, False),
    "jpeg": (".jpg", ("uint8",), 1, False),
    "tiff_stack": (".tif", ("uint16",), 6, True),
    "mrc_stack": (".mrcs", ("float32", "uint16"), 6, True),
}


def write_frames(
    path: Path, format_: str, frames: np.ndarray, nm_per_pixel: float | None, *, meta: dict | None = None
) -> None:
    """`frames` (n x h x w, or n x h x w x 3 uint8 for png, jpeg and tiff) to `path` as `format_`, a key of `FORMATS`.

    `nm_per_pixel` None leaves the pixel size out; formats that cannot carry one ignore it. `meta` may hold
    `voltage_kv`, `instrument` and `acquired` (ISO 8601), used where the format has a place for them. Same input, same
    bytes. Raises KeyError for an unknown format, ValueError for frames that it cannot hold.
    """
    dtypes, max_frames = FORMATS[format_][1:3]
    if len(frames) > max_frames or (frames.ndim == 3 and str(frames.dtype) not in dtypes):
        raise ValueError(
            f"{path.name}: {format_} takes {max_frames} frame(s) of {', '.join(dtypes)}, "
            f"not {len(frames)} of {frames.dtype}"
        )
    _WRITERS[format_](path, frames, nm_per_pixel, meta or {})


def _write_plain_tiff(path, frames, nm_per_pixel, meta):
    tifffile.imwrite(path, frames[0], metadata=None, software="Camera Control 4.1", datetime=_format_tiff_date(meta))


def _write_imagej_tiff(path, frames, nm_per_pixel, meta):
    # ImageJ keeps pixels per unit in the resolution tags and the unit in its description; people use micron and nm.
    unit, nm_per_unit = ("nm", 1.0) if len(frames) > 1 else ("micron", 1000.0)
    has_size = nm_per_pixel is not None
    size = {"resolution": (nm_per_unit / nm_per_pixel,) * 2} if has_size else {}
    stack = frames if len(frames) > 1 else frames[0]
    metadata = {"axes": "TYX"[-stack.ndim :], **({"unit": unit} if has_size else {})}
    tifffile.imwrite(path, stack, imagej=True, metadata=metadata, **size)


def _write_fei_tiff(path, frames, nm_per_pixel, meta):
    # Thermo Fisher / FEI microscopes put an INI text into private tag 34682; lengths in metres.
    height, width = frames.shape[1:3]
    lines = [
        "[User]",
        f"Date={meta.get('acquired', '')[:10]}",
        "[System]",
        f"SystemType={meta.get('instrument', 'unknown')}",
    ]
    lines += [
        "[Beam]",
        f"HV={1000 * meta.get('voltage_kv', 0):.0f}",
        "[Image]",
        f"ResolutionX={width}",
        f"ResolutionY={height}",
    ]
    if nm_per_pixel is not None:
        metres = nm_per_pixel * 1e-9
        lines += [
            "[Scan]",
            f"PixelWidth={metres:.6e}",
            f"PixelHeight={metres:.6e}",
            f"HorFieldsize={metres * width:.6e}",
        ]
    text = "\r\n".join(lines) + "\r\n"
    tifffile.imwrite(
        path, frames[0], metadata=None, extratags=[(34682, "s", 0, text, True)], datetime=_format_tiff_date(meta)
    )


def _write_ome_tiff(path, frames, nm_per_pixel, meta):
    size = (
        {}
        if nm_per_pixel is None
        else {
            "PhysicalSizeX": nm_per_pixel,
            "PhysicalSizeXUnit": "nm",
            "PhysicalSizeY": nm_per_pixel,
            "PhysicalSizeYUnit": "nm",
        }
    )
    # A fixed UUID: tifffile's own is of the clock, and the same seed has to give the same bytes.
    uuid = "urn:uuid:00000000-0000-4000-8000-000000000000"
    tifffile.imwrite(path, frames[0], ome=True, metadata={"axes": "YX", "UUID": uuid, **size}, compression="zlib")


def _write_mrc(path, frames, nm_per_pixel, meta):
    """MRC2014 (Cheng et al., J. Struct. Biol. 192 (2015) 146): cell lengths in Angstrom, `MAP `, machine stamp."""
    n, height, width = frames.shape
    header = np.zeros(256, "<i4")
    real = header.view("<f4")
    header[:4] = width, height, n, {"float32": 2, "uint16": 6}[str(frames.dtype)]
    header[7:10] = width, height, n
    if nm_per_pixel is not None:
        real[10:13] = 10 * nm_per_pixel * width, 10 * nm_per_pixel * height, 10 * nm_per_pixel * n
    real[13:16] = 90
    header[16:19] = 1, 2, 3
    real[19:22] = frames.min(), frames.max(), frames.mean(dtype=np.float64)
    header[27] = 20140
    header[52:54] = np.frombuffer(b"MAP DD\0\0", "<i4")
    real[54] = frames.std(dtype=np.float64)
    header[55] = 1
    header[56:76] = np.frombuffer(b"emqa synthesise".ljust(80), "<i4")
    path.write_bytes(header.tobytes() + frames.astype(frames.dtype.newbyteorder("<"), copy=False).tobytes())


def _write_emd(path, frames, nm_per_pixel, meta):
    # The Berkeley (NCEM) layout of EMD 0.2: dim1 describes the first axis of the array.
    with h5py.File(path, "w") as file:
        file.attrs["version_major"] = 0
        file.attrs["version_minor"] = 2
        file.create_group("microscope").attrs["voltage"] = meta.get("voltage_kv", 0.0)
        group = file.create_group("data/image")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=frames[0])
        for name, axis, length in zip(("dim1", "dim2"), "yx", frames[0].shape):
            dim = group.create_dataset(name, data=np.arange(length) * (nm_per_pixel or 1.0))
            dim.attrs["name"] = axis
            dim.attrs["units"] = "[n_m]" if nm_per_pixel else "[p_x]"


def write_hspy(path: Path, data: np.ndarray, axes: list[dict], *, title: str, signal_type: str = "") -> None:
    """A HyperSpy file: `axes` are dicts of name, scale, offset, units (or None), in the order of `data`."""
    with h5py.File(path, "w") as file:
        file.attrs["file_format"] = "HyperSpy"
        file.attrs["file_format_version"] = "3.3"
        group = file.create_group(f"Experiments/{title}")
        group.attrs["package"] = "hyperspy"
        group.attrs["package_version"] = "2.3.0"
        group.create_dataset("data", data=data)
        for index, (axis, length) in enumerate(zip(axes, data.shape)):
            attributes = file.create_group(f"Experiments/{title}/axis-{index}").attrs
            values = {
                "_type": "UniformDataAxis",
                "size": length,
                "navigate": False,
                "is_binned": bool(signal_type),
                **axis,
            }
            for key, value in values.items():
                attributes[key] = "_None_" if value is None else value
        metadata = group.create_group("metadata")
        metadata.create_group("General").attrs["title"] = title
        metadata.create_group("Signal").attrs["signal_type"] = signal_type
        metadata.create_group("_HyperSpy")
        group.create_group("original_metadata")
        group.create_group("learning_results")
        group.create_group("models")


def _write_hspy_image(path, frames, nm_per_pixel, meta):
    size = {"scale": nm_per_pixel or 1.0, "offset": 0.0, "units": "nm" if nm_per_pixel else None}
    write_hspy(path, frames[0], [{"name": "y", **size}, {"name": "x", **size}], title="image")


def _write_png_or_jpeg(path, frames, nm_per_pixel, meta):
    image = frames[0][..., ::-1] if frames.ndim == 4 else frames[0]
    options = [cv2.IMWRITE_JPEG_QUALITY, 92] if path.suffix == ".jpg" else [cv2.IMWRITE_PNG_COMPRESSION, 1]
    _, buffer = cv2.imencode(path.suffix, np.ascontiguousarray(image), options)
    path.write_bytes(buffer.tobytes())  # not cv2.imwrite, which cannot open every unicode path


def _format_tiff_date(meta: dict) -> str | None:
    return meta["acquired"][:19].replace("-", ":").replace("T", " ") if meta.get("acquired") else None


_WRITERS = {
    "tiff": _write_plain_tiff,
    "imagej": _write_imagej_tiff,
    "fei": _write_fei_tiff,
    "ome": _write_ome_tiff,
    "mrc": _write_mrc,
    "emd": _write_emd,
    "hspy": _write_hspy_image,
    "png": _write_png_or_jpeg,
    "png16": _write_png_or_jpeg,
    "jpeg": _write_png_or_jpeg,
    "tiff_stack": _write_imagej_tiff,
    "mrc_stack": _write_mrc,
}
