"""Dose of a scanned image from what its file states."""

import math

ELEMENTARY_CHARGE_C = 1.602176634e-19  # exact, SI of 2019


def compute_scan_dose(current_a: float, dwell_s: float, pixel_area_nm2: float) -> float:
    """Electrons per nm2 of a scanned image: probe current x time per pixel / area of a pixel."""
    if not (current_a > 0 and dwell_s > 0 and pixel_area_nm2 > 0):
        return math.nan
    return current_a * dwell_s / ELEMENTARY_CHARGE_C / pixel_area_nm2
