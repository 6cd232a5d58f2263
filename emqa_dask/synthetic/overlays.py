"""Ink that instruments and authors leave on micrographs: information banners and burned-in scale bars."""

import math

import cv2
import numpy as np

_FONTS = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX)
_LENGTHS_NM = tuple(digit * 10.0**k for k in range(-1, 9) for digit in (1, 2, 5))  # that bars have
_UNITS_NM = {"nm": 1.0, "um": 1e3, "mm": 1e6}
MIN_BAR_PX = 25  # of a bar with a length: whole pixels are 2 % of it
UNSCALED = "no scale"  # at a bar of an image whose pixel size is not known


def choose_bar(longest_px: int, nm_per_pixel: float) -> tuple[int, str]:
    """Length in px and text of the longest usual bar up to `longest_px`; UNSCALED of that length without a size.

    A bar in an image that is too small for a length of MIN_BAR_PX has no scale either.
    """
    lengths_nm = [nm for nm in _LENGTHS_NM if nm_per_pixel > 0 and MIN_BAR_PX * nm_per_pixel <= nm]
    lengths_nm = [nm for nm in lengths_nm if nm <= longest_px * nm_per_pixel]
    if not lengths_nm:
        return longest_px, UNSCALED
    return round(lengths_nm[-1] / nm_per_pixel), format_length(lengths_nm[-1])


def format_length(nm: float) -> str:
    """`nm` in the largest unit in which it is at least 1, "0.5 nm" below."""
    unit = next((unit for unit in ("mm", "um") if nm >= _UNITS_NM[unit]), "nm")
    return f"{nm / _UNITS_NM[unit]:.3g} {unit}"


def draw_text(ink: np.ndarray, text: str, x: int, y: int, height_px: float, font: int, *, thickness: int = 1) -> int:
    """Write `text` into the uint8 mask `ink` (255 is ink), lower left corner at (x, y); returns the x where it ends."""
    (_, unit), _ = cv2.getTextSize("0", font, 1.0, thickness)
    scale = max(height_px / max(unit, 1), 0.25)
    cv2.putText(ink, text, (int(x), int(y)), font, scale, 255, thickness, cv2.LINE_AA)
    return int(x) + cv2.getTextSize(text, font, scale, thickness)[0][0]


def find_white_level(image: np.ndarray) -> float:
    """The value that an instrument's software prints white with: the dtype's end, or the data's own maximum.

    8-bit ink is 255. Deeper cameras seldom use their whole range, and software prints at a power of two above the data.
    """
    top = float(np.nanmax(np.where(np.isfinite(image), image, -np.inf), initial=0.0))
    if image.dtype == np.uint8:
        return 255.0
    if np.issubdtype(image.dtype, np.integer):
        return float(min(np.iinfo(image.dtype).max, 2 ** int(np.ceil(np.log2(max(top, 1) + 1))) - 1))
    return top if top > 0 else 1.0


def find_black_level(image: np.ndarray) -> float:
    """The value that is printed black: zero, or the data's minimum where it is negative."""
    return float(min(0.0, np.nanmin(np.where(np.isfinite(image), image, np.inf), initial=0.0)))


def blend_ink(image: np.ndarray, ink: np.ndarray, value: float) -> np.ndarray:
    """`image` with `value` where the uint8 mask `ink` is 255, blended where it lies between; same dtype."""
    opacity = ink / 255.0
    blended = image.astype(np.float64) * (1 - opacity) + value * opacity
    return (np.rint(blended) if np.issubdtype(image.dtype, np.integer) else blended).astype(image.dtype)


def draw_banner(
    image: np.ndarray, rng: np.random.Generator, *, severity: float = 1.0, nm_per_pixel: float = math.nan
) -> np.ndarray:
    """The lower 5-13 % of `image` overprinted with an information bar as FEI, Zeiss, JEOL or Hitachi draw it.

    Shape (h, w) and dtype stay, so the bar hides specimen, as in files that the instrument's software saved. Scale bar
    and field width are those of `nm_per_pixel`; without it, the bar has no scale.
    """
    h, w = image.shape
    rows = int(np.clip(round(h * rng.uniform(0.055, 0.12) * severity), 12, max(h // 3, 1)))
    rows = min(rows, h)
    white = find_white_level(image)
    black = find_black_level(image)
    design = rng.choice(["fei", "zeiss", "jeol", "hitachi"])
    out = image.copy()
    dark = design in ("fei", "jeol", "hitachi") or rng.random() < 0.3
    ground, letters = (black, white) if dark else (white, black)
    out[h - rows :] = np.asarray(ground).astype(image.dtype)
    ink = np.zeros((rows, w), np.uint8)
    font = int(rng.choice(_FONTS))
    values = _draw_banner_values(rng, w, nm_per_pixel)
    bar, length = choose_bar(int(w * rng.uniform(0.1, 0.25)), nm_per_pixel)
    two_lines = design in ("fei", "zeiss") and rows >= 30
    size = rows * (0.28 if two_lines else 0.42)
    x = int(0.015 * w)
    for k, text in enumerate(values):
        (tw, th), _ = cv2.getTextSize(text, font, 1.0, 1)
        step = int(tw * size / max(th, 1)) + int(0.02 * w)
        if x + step > w - bar - int(0.06 * w):
            break
        if two_lines:
            draw_text(ink, text.split()[0], x, int(rows * 0.42), size, font)
            draw_text(ink, text.split()[-1], x, int(rows * 0.88), size, font)
        else:
            draw_text(ink, text, x, int(rows * 0.72), size, font)
        if design == "fei" and k:
            ink[:, x - int(0.01 * w)] = 180
        x += step
    x0 = w - bar - int(0.03 * w)
    thick = max(2, rows // 12)
    y = int(rows * 0.8)
    if design == "hitachi":  # a row of ticks instead of a bar
        for t in np.rint(np.linspace(x0, x0 + bar, 11)).astype(int):
            ink[y - rows // 5 : y, t : t + 2] = 255
    else:
        ink[y - thick : y, x0 : x0 + bar] = 255
    draw_text(ink, length, x0 + bar // 6, int(rows * 0.5), rows * 0.32, font)
    if design in ("fei", "zeiss"):
        ink[0] = 255
        ink[-1] = 255
    out[h - rows :] = blend_ink(out[h - rows :], ink, letters)
    return out


def _draw_banner_values(rng: np.random.Generator, width: int, nm_per_pixel: float) -> list[str]:
    """What stands in an information bar, in any order; the field width as far as it is known."""
    values = [
        f"HV {rng.choice([2, 5, 10, 15, 20, 30, 80, 200, 300])}.00 kV",
        f"mag {int(rng.uniform(1, 400)) * 1000} x",
        f"WD {rng.uniform(3, 12):.1f} mm",
        f"det {rng.choice(['ETD', 'TLD', 'BSED', 'HAADF', 'InLens'])}",
        f"HFW {width * nm_per_pixel / 1e3:.3g} um",
        f"{rng.integers(1, 13)}/{rng.integers(1, 29)}/20{rng.integers(10, 26)}",
        f"spot {rng.uniform(2, 5):.1f}",
    ]
    values = values if nm_per_pixel > 0 else [text for text in values if not text.startswith("HFW")]
    rng.shuffle(values)
    return values


def draw_scale_bar(
    image: np.ndarray, rng: np.random.Generator, *, severity: float = 1.0, nm_per_pixel: float = math.nan
) -> np.ndarray:
    """A bar of 5-35 % of the width and its length in letters burned into a corner of `image`, as in published figures.

    White or black ink, whichever stands out; sometimes on a plate of the other. Shape (h, w) and dtype stay. The length
    is that of `nm_per_pixel`; without it, the bar has no scale.
    """
    h, w = image.shape
    white = find_white_level(image)
    black = find_black_level(image)
    length, text = choose_bar(int(np.clip(w * rng.uniform(0.12, 0.33) * severity, 8, 0.9 * w)), nm_per_pixel)
    thick = max(2, round(h * rng.uniform(0.006, 0.016) * severity))
    letter = max(7.0, h * rng.uniform(0.028, 0.05) * severity)
    font = int(rng.choice(_FONTS))
    heavy = 1 if letter < 14 else 2
    x0 = int(w * rng.uniform(0.03, 0.08))
    x0 = x0 if rng.random() < 0.5 else w - x0 - length
    y1 = h - int(h * rng.uniform(0.03, 0.07)) if rng.random() < 0.85 else int(h * 0.05 + thick + 1.8 * letter)
    y0 = max(y1 - thick, 0)
    baseline = y0 - int(0.4 * letter)
    region = image[max(baseline - int(letter), 0) : y1, max(x0, 0) : x0 + length]
    finite = region[np.isfinite(region)]
    level = float(finite.mean()) if finite.size else black
    use_white = level < 0.55 * (white + black) if rng.random() < 0.9 else level < 0.5 * white
    value, plate_value = (white, black) if use_white else (black, white)
    ink = np.zeros((h, w), np.uint8)
    plate = np.zeros((h, w), np.uint8)
    ink[y0:y1, x0 : x0 + length] = 255
    (tw, th), _ = cv2.getTextSize(text, font, 1.0, heavy)
    width = int(tw * letter / max(th, 1))
    draw_text(
        ink,
        text,
        int(np.clip(x0 + (length - width) / 2, 0, max(w - width, 0))),
        baseline,
        letter,
        font,
        thickness=heavy,
    )
    if rng.random() < 0.2:
        pad = int(0.4 * letter)
        plate[max(baseline - int(letter) - pad, 0) : y1 + pad, max(min(x0, x0 + (length - width) // 2) - pad, 0) :][
            :, : max(length, width) + 2 * pad
        ] = 255
    return blend_ink(blend_ink(image, plate, plate_value), ink, value)
