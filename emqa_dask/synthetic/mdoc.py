"""Conditions of acquisition beside an image, as SerialEM writes them: dose, defocus, pixel size, voltage (.mdoc)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

A2_PER_NM2 = 100.0


def has_conditions(meta: Mapping) -> bool:
    """Whether an image was drawn with a dose and a defocus that a microscope would have noted."""
    return {"dose_e_per_nm2", "defocus_nm", "voltage_kv"} <= set(meta)


def write_mdoc(image_path: Path, metas: Sequence[Mapping], shape: tuple[int, int], nm_per_pixel: float) -> None:
    """Writes `<image_path>.mdoc` with a section for each frame; `metas` has the `meta` of each frame's sample."""
    lines = [f"ImageFile = {image_path.name}", f"ImageSize = {shape[1]} {shape[0]}", ""]
    for frame, meta in enumerate(metas):
        lines += [
            f"[ZValue = {frame}]",
            f"PixelSpacing = {10 * nm_per_pixel:.6g}",
            f"Voltage = {meta['voltage_kv']:g}",
            f"Defocus = {meta['defocus_nm'] / 1000:.6g}",  # micrometres, negative for underfocus
            f"ExposureDose = {meta['dose_e_per_nm2'] / A2_PER_NM2:.6g}",
            "",
        ]
    image_path.with_name(f"{image_path.name}.mdoc").write_text("\n".join(lines), encoding="utf-8")
