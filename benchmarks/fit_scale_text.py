"""Trains the bundled network `scale-text`, which reads what stands at a scale bar, on drawn lines of text only.

python -m benchmarks.fit_scale_text --out DIR [--lines 12000] [--processes 2]

Every line is drawn anew: a length with its unit, other text of information bars, or none; in a font of this machine
(those of Debian's packages fonts-liberation, -dejavu, -freefont-ttf, -roboto, -open-sans, -noto-core, -urw-base35,
-lato, -croscore, -cantarell, -inconsolata) or one of OpenCV's; white, black, outlined or on a plate; 7 to 40 px high;
on synthetic micrographs, noise and plain ground; then blurred, scaled, recorded as JPEG and cut out with errors as
archive.scale_bar.text_lines makes them. DIR gets weights.safetensors and card.toml, with figures measured on lines of
another seed and on fonts that were left out of the training.
"""

import argparse
import multiprocessing
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from safetensors.numpy import save

from emqa_dask import models
from emqa_dask.archive.scale_bar import text_reader
from emqa_dask.archive.scale_bar.reading import MIN_CONFIDENCE
from emqa_dask.synthetic.profiles import FAMILIES, make_sample
from emqa_dask.synthetic.sample import draw_log_uniform

FONT_FOLDERS = (Path("/usr/share/fonts"),)
# Families in which microscopes and journals set lengths, drawn more often than the rest.
COMMON_FONTS = ("Arimo", "Liberation", "DejaVu", "Free", "Nimbus", "Tinos", "Cousine", "OpenSans", "Roboto", "Lato")
UNCOMMON_FONTS = ("Cantarell", "Inconsolata", "URW", "C059", "P052", "NotoSans-", "NotoSerif-", "NotoMono", "Noto Sans")
SKIPPED_FONTS = ("Thin", "Hairline", "Black", "MathTeX", "Symbol", "Z003", "D050")
HELD_OUT_FONTS = ("Tinos", "RobotoCondensed", "Cantarell", "FreeMono", "LiberationSansNarrow")  # for measuring only
HERSHEY = (cv2.FONT_HERSHEY_SIMPLEX, cv2.FONT_HERSHEY_DUPLEX, cv2.FONT_HERSHEY_PLAIN, cv2.FONT_HERSHEY_COMPLEX)
DIGITS = ("1", "2", "5", "10", "20", "50", "100", "200", "500")
N_HIDDEN = 128
N_GROUND_WINDOWS = 3  # of each line, and one more for each of its letters
EPOCHS = 3
RATE = 3e-3
BATCH = 256
N_GROUNDS = 32
UNITS = ("nm",) * 9 + ("µm",) * 7 + ("um",) * 4 + ("mm", "Å", "pm")
OTHER_TEXTS = [
    "HV", "WD", "mag", "det", "HFW", "EHT", "Mag", "Signal", "Date", "SE", "SEI", "BSE", "spot", "tilt", "kV", "kX",
    "x", "Acc.V", "Spot", "Magn", "Det", "InLens", "Width", "Print", "'mm'", "mrad", "eV", "keV", "mA", "pA",
    "SU8010", "S-4800", "S4800", "JEOL", "ZEISS", "NTNU", "No.", "File", "Name", "TEM", "Hitachi", "(a)", "(b)",
    "(c)", "(d)", "a", "b", "c", "A", "B", "(A)", "NONE", "SiO2", "Au", "AuNPs", "Ag@Au", "MOF-5", "°", "X100,000",
    "x40.0k", "LM(L)", "SE(M)", "High", "Vacuum",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lines", type=int, default=12_000)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    shares = [(-(-options.lines // options.processes), seed) for seed in range(options.processes)]
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        windows, classes = (np.concatenate(part) for part in zip(*pool.starmap(draw_windows, shares), strict=True))
    print(f"{len(windows)} windows", flush=True)
    weights = train(windows, classes)
    (options.out / text_reader.WEIGHTS).write_bytes(save({k: v.astype(np.float16) for k, v in weights.items()}))
    measurements = measure(weights)
    card = {
        "name": "scale-text",
        "what": "reads the length and the unit at a scale bar; trained on drawn lines of text",
        "architecture": {"alphabet": text_reader.ALPHABET, "hidden": N_HIDDEN},
        "training": {"lines": options.lines, "windows": len(windows), "epochs": EPOCHS},
        "measured": measurements,
    }
    models.write_model_card(options.out, card)
    print(measurements)


def draw_windows(n_lines: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows around letters and between them, uint8, and the class of each."""
    fonts = list_fonts(are_held_out=False)
    rng = np.random.default_rng([seed, 1])
    grounds = make_grounds(np.random.default_rng([seed, 2]))
    pairs = [select_windows(rng, *draw_line(rng, grounds, fonts)) for _ in range(n_lines)]
    windows, classes = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return windows, classes


def select_windows(
    rng: np.random.Generator, line: np.ndarray, text: str, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Windows of a line with their classes: at each letter's centre and a column beside it, and away from centres."""
    prepared = text_reader.prepare_line(line)
    columns = np.clip(centres * text_reader.compute_scale(line.shape), 0, prepared.shape[1] - 1)
    target = np.array(text_reader.encode_text(text), np.uint8)
    distance = np.abs(np.arange(prepared.shape[1])[:, None] - np.append(columns, 1e3)).min(axis=1)
    ground = rng.permutation(np.flatnonzero(distance > 2))[: N_GROUND_WINDOWS + len(target)]
    beside = np.clip(np.rint(columns) + rng.choice([-1, 1], len(columns)), 0, prepared.shape[1] - 1)
    selection = np.concatenate([np.rint(columns), beside, ground]).astype(int)
    values = np.rint(255 * np.pad(prepared, ((0, 0), (text_reader.WINDOW_PX // 2,) * 2), mode="edge")).astype(np.uint8)
    windows = np.lib.stride_tricks.sliding_window_view(values, text_reader.WINDOW_PX, axis=1)[:, selection]
    windows = windows.transpose(1, 0, 2).reshape(len(selection), -1)
    return windows, np.concatenate([target, target, np.zeros(len(ground), np.uint8)])


def train(windows: np.ndarray, classes: np.ndarray) -> dict[str, np.ndarray]:
    """Weights of the network: cross-entropy, Adam (Kingma & Ba, ICLR 2015), a rate that falls to zero."""
    rng = np.random.default_rng(3)
    n_in, n_out = windows.shape[1], len(text_reader.ALPHABET) + 1
    weights = {
        "hidden.weight": rng.normal(0, np.sqrt(2 / n_in), (n_in, N_HIDDEN)),
        "hidden.bias": np.zeros(N_HIDDEN),
        "letters.weight": rng.normal(0, np.sqrt(1 / N_HIDDEN), (N_HIDDEN, n_out)),
        "letters.bias": np.zeros(n_out),
    }
    weights = {name: values.astype(np.float32) for name, values in weights.items()}
    means = {name: np.zeros_like(values) for name, values in weights.items()}
    squares = {name: np.zeros_like(values) for name, values in weights.items()}
    n_steps = EPOCHS * (len(windows) // BATCH)
    for step in range(1, n_steps + 1):
        if (step - 1) % (len(windows) // BATCH) == 0:
            order = rng.permutation(len(windows))
        start = (step - 1) % (len(windows) // BATCH) * BATCH
        batch = order[start : start + BATCH]
        values = windows[batch].astype(np.float32) / 255
        gradients, loss = compute_gradients(values - values.mean(axis=1, keepdims=True), classes[batch], weights)
        rate = RATE * min(1, step / 100) * 0.5 * (1 + np.cos(np.pi * step / n_steps))
        for name, gradient in gradients.items():
            means[name] += 0.1 * (gradient - means[name])
            squares[name] += 0.01 * (gradient**2 - squares[name])
            mean = means[name] / (1 - 0.9**step)
            weights[name] -= rate * mean / (np.sqrt(squares[name] / (1 - 0.99**step)) + 1e-8)
        if step % 100 == 0:
            print(f"{step} of {n_steps}: {loss:.3f}", flush=True)
    return weights


def compute_gradients(
    values: np.ndarray, classes: np.ndarray, weights: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], float]:
    """Gradients of the mean cross-entropy of a batch, and the cross-entropy."""
    hidden = np.maximum(values @ weights["hidden.weight"] + weights["hidden.bias"], 0)
    probabilities = text_reader.compute_probabilities(values, weights)
    rows = np.arange(len(classes))
    loss = float(-np.log(np.maximum(probabilities[rows, classes], 1e-12)).mean())
    probabilities[rows, classes] -= 1
    errors = probabilities / len(classes)
    hidden_errors = (errors @ weights["letters.weight"].T) * (hidden > 0)
    gradients = {
        "hidden.weight": values.T @ hidden_errors,
        "hidden.bias": hidden_errors.sum(axis=0),
        "letters.weight": hidden.T @ errors,
        "letters.bias": errors.sum(axis=0),
    }
    return gradients, loss


def list_fonts(*, are_held_out: bool) -> tuple[list[Path], list[Path]]:
    """Files of common and of uncommon fonts, either those for training or those for measuring."""
    paths = sorted(p for folder in FONT_FOLDERS for p in folder.rglob("*") if p.suffix in (".ttf", ".otf"))
    paths = [p for p in paths if not any(part in p.name for part in SKIPPED_FONTS)]
    paths = [p for p in paths if p.name.startswith(HELD_OUT_FONTS) == are_held_out]
    common = [p for p in paths if p.name.startswith(COMMON_FONTS)]
    return common, [p for p in paths if p.name.startswith(UNCOMMON_FONTS)]


@lru_cache(maxsize=4000)
def load_font(path: str, size: int) -> ImageFont.FreeTypeFont:
    """A font at `size` px."""
    return ImageFont.truetype(path, size)


def draw_text_of_bar(rng: np.random.Generator) -> str:
    """A length as bars have it."""
    unit = str(rng.choice(UNITS))
    kind = rng.random()
    if kind < 0.55:
        number = str(rng.choice(DIGITS if unit != "mm" else DIGITS[:3]))
    elif kind < 0.8:
        number = str(rng.choice(["0.1", "0.2", "0.5", "1.0", "2.0", "3.0", "5.0", "1.00", "2.00", "5.00", "10.0"]))
        number = number if rng.random() < 0.6 else str(rng.choice(["20.0", "50.0", "0.25", "2.5", "1.5", "0.05"]))
    elif kind < 0.9:
        number = str(rng.integers(1, 10) * 10 ** int(rng.integers(0, 3)))
    else:
        number = str(rng.integers(1, 1000)) if rng.random() < 0.6 else f"{draw_log_uniform(rng, 0.1, 99):.1f}"
    space = " " if rng.random() < 0.6 else ""
    return number + space + unit


def draw_other_text(rng: np.random.Generator) -> str:
    """Text that is no length, as information bars and panels of figures have it."""
    kind = rng.random()
    if kind < 0.35:
        return str(rng.choice(OTHER_TEXTS))
    if kind < 0.6:
        unit = str(rng.choice(["kV", "mm", "kx", "k", "X", "°", "", "%", " K X", "kV SE", "mrad", "00x"]))
        return str(rng.choice(["", "WD ", "x", "X", "HV ", "WD = "])) + f"{draw_log_uniform(rng, 0.5, 300):.1f}" + unit
    if kind < 0.8:
        return f"{rng.integers(1, 13)}/{rng.integers(1, 29)}/20{rng.integers(10, 26)}"
    letters = list("abcdefghijklmnopqrstuvwxyzABCDEFGHIKLMNPQRTUVWXYZ0123456789-/:()=")
    return "".join(rng.choice(letters, int(rng.integers(1, 8))))


def make_grounds(rng: np.random.Generator) -> list[np.ndarray]:
    """Synthetic micrographs, uint8 (256, 256), for the text to lie on."""
    grounds = []
    for k in range(N_GROUNDS):
        image = make_sample(list(FAMILIES)[k % len(FAMILIES)], rng, (256, 256)).image.astype(np.float32)
        low, high = np.percentile(image, [0.5, 99.5])
        grounds.append((255 * np.clip((image - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8))
    return grounds


def draw_ground(rng: np.random.Generator, grounds: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """A background, float32, 0 to 255."""
    h, w = shape
    kind = rng.random()
    if kind < 0.45:
        picture = grounds[rng.integers(len(grounds))]
        factor = max(h / 250, w / 250, draw_log_uniform(rng, 0.5, 3))
        size = (max(int(w / factor), 2), max(int(h / factor), 2))
        y, x = rng.integers(0, 257 - size[1]), rng.integers(0, 257 - size[0])
        ground = cv2.resize(picture[y : y + size[1], x : x + size[0]], (w, h)).astype(np.float32)
        spread = draw_log_uniform(rng, 0.15, 1)
        ground = ground * spread + rng.uniform(0, 255 * (1 - spread))
    else:
        ground = np.full(shape, rng.uniform(0, 255) if rng.random() < 0.6 else rng.choice([0, 255]), np.float32)
        if rng.random() < 0.3:
            ground += np.linspace(-1, 1, w, dtype=np.float32) * rng.uniform(-60, 60)
    if rng.random() < 0.6:
        noise = rng.standard_normal(shape, dtype=np.float32)
        sigma = rng.uniform(0, 1.5)
        noise = cv2.GaussianBlur(noise, (0, 0), sigma) * (1 + 2 * sigma) if sigma > 0.3 else noise
        ground += noise * np.float32(draw_log_uniform(rng, 2, 40))
    return ground


def draw_ink(
    rng: np.random.Generator, text: str, height: float, fonts: tuple[list[Path], list[Path]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opacity (h, w) of the letters, 0 to 1, with a margin; that of their outline (0 without one); letters' centres.

    The centres are columns, one for each letter that is no space.
    """
    if rng.random() < 0.12 and not any(letter in text for letter in "µμÅ°"):
        hershey = int(rng.choice(HERSHEY))
        scale = height / cv2.getTextSize("0", hershey, 1, 1)[0][1]
        thickness = max(1, round(height * rng.uniform(0.05, 0.16)))
        (w, h), base = cv2.getTextSize(text, hershey, scale, thickness)
        canvas = np.zeros((h + base + 24, w + 24), np.uint8)
        cv2.putText(canvas, text, (12, h + 12), hershey, scale, 255, thickness, cv2.LINE_AA)
        ends = [cv2.getTextSize(text[:k], hershey, scale, thickness)[0][0] for k in range(len(text) + 1)]
        return canvas / np.float32(255), np.zeros(canvas.shape, np.float32), find_centres(text, ends, 12.0)
    common, uncommon = fonts
    group = common if rng.random() < 0.8 or not uncommon else uncommon
    path = group[rng.integers(len(group))]
    if path.stem.endswith(("Italic", "Oblique")) and rng.random() < 0.7:
        path = common[rng.integers(len(common))]
    size = max(round(height * 1.4), 6)
    font = load_font(str(path), size)
    left, top, right, bottom = font.getbbox(text)
    picture = Image.new("L", (max(right - left, 1) + 24, max(bottom - top, 1) + 24))
    drawing = ImageDraw.Draw(picture)
    drawing.fontmode = "1" if rng.random() < 0.1 else "L"
    drawing.text((12 - left, 12 - top), text, fill=255, font=font)
    ink = np.asarray(picture, np.float32) / 255
    stretch = rng.uniform(0.85, 1.2)
    centres = find_centres(text, [font.getlength(text[:k]) for k in range(len(text) + 1)], 12.0 - left) * stretch
    ink = cv2.resize(ink, (round(ink.shape[1] * stretch), ink.shape[0]))
    if rng.random() < 0.12:
        width = max(round(height * rng.uniform(0.05, 0.14)), 1)
        outline = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
        return ink, np.clip(outline - ink, 0, 1), centres
    return ink, np.zeros(ink.shape, np.float32), centres


def find_centres(text: str, ends: list[float], x0: float) -> np.ndarray:
    """Columns of the middle of each letter of `text` that is no space; `ends` are the widths of its beginnings."""
    middles = x0 + (np.array(ends[:-1]) + np.array(ends[1:])) / 2
    return middles[[letter != " " for letter in text]]


def draw_line(
    rng: np.random.Generator, grounds: list[np.ndarray], fonts: tuple[list[Path], list[Path]]
) -> tuple[np.ndarray, str, np.ndarray]:
    """A line as it is cut out of an image, its letters brighter than the ground, float32 (h, w); text and centres."""
    kind = rng.random()
    text = draw_text_of_bar(rng) if kind < 0.78 else draw_other_text(rng) if kind < 0.95 else ""
    height = draw_log_uniform(rng, 6.5, 44)
    if text:
        ink, outline, centres = draw_ink(rng, text, height, fonts)
    else:
        ink = np.zeros((round(height) + 24, round(height * rng.uniform(1, 6)) + 24), np.float32)
        outline, centres = ink, np.zeros(0)
    rows, columns = np.flatnonzero(ink.max(1) > 0.3), np.flatnonzero(ink.max(0) > 0.3)
    rows = rows if rows.size else np.arange(12, ink.shape[0] - 12)
    columns = columns if columns.size else np.arange(12, ink.shape[1] - 12)
    ground = draw_ground(rng, grounds, ink.shape)
    near = float(np.median(ground[rows[0] : rows[-1] + 1]))
    value = 255.0 if rng.random() < 0.75 else rng.uniform(120, 255)
    value = max(value, min(near + rng.uniform(50, 120), 255))
    if near > value - 40:  # letters are brighter than the ground: what is dark was inverted before
        ground -= near - rng.uniform(0, value - 50)
    if rng.random() < 0.18:
        ground = np.full(ink.shape, rng.uniform(0, 40), np.float32) if rng.random() < 0.8 else ground * 0.3
    if rng.random() < 0.3:
        add_bar(rng, ink, rows, columns, height)
    image = ground * (1 - outline) + outline * rng.uniform(0, 60)
    image = image * (1 - ink) + ink * value
    image = degrade(rng, np.clip(image, 0, 255), height)
    part, x0 = cut_line(rng, image, rows, columns)
    return part, text, centres - x0


def add_bar(rng: np.random.Generator, ink: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: float) -> None:
    """Draws a bar above or below the text into `ink`, or a line of a frame."""
    thick = max(1, round(height * rng.uniform(0.04, 0.35)))
    gap = max(1, round(height * rng.uniform(0.08, 0.5)))
    x0 = max(int(columns[0] + rng.normal(0, height)), 0)
    x1 = max(int(columns[-1] + rng.normal(0, height)), x0 + 4)
    y = rows[-1] + 1 + gap if rng.random() < 0.7 else rows[0] - gap - thick
    if y > 0:
        ink[y : y + thick, x0:x1] = 1


def degrade(rng: np.random.Generator, image: np.ndarray, height: float) -> np.ndarray:
    """`image`, whose text is `height` px high, blurred, scaled and compressed at random, but still readable."""
    if rng.random() < 0.6:
        image = cv2.GaussianBlur(image, (0, 0), draw_log_uniform(rng, 0.3, np.clip(0.07 * height, 0.35, 1.3)))
    if rng.random() < 0.3:
        h, w = image.shape
        factor = rng.uniform(0.6, 0.95)
        small = cv2.resize(image, (max(round(w * factor), 4), max(round(h * factor), 4)), interpolation=cv2.INTER_AREA)
        image = cv2.resize(small, (w, h), interpolation=cv2.INTER_LINEAR if rng.random() < 0.7 else cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        quality = int(rng.integers(40, 96))
        data = cv2.imencode(".jpg", image.astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        image = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE)
    return image.astype(np.float32)


def cut_line(
    rng: np.random.Generator, image: np.ndarray, rows: np.ndarray, columns: np.ndarray
) -> tuple[np.ndarray, int]:
    """The part of `image` with the text, its margins about those of text_lines.cut_lines(), and its first column."""
    h = rows[-1] - rows[0] + 1
    top, bottom = rng.normal(0.15, 0.06, 2)
    left, right = rng.normal(0.3, 0.12, 2)
    y0 = int(np.clip(round(rows[0] - top * h), 0, image.shape[0] - 6))
    y1 = int(np.clip(round(rows[-1] + 1 + bottom * h), y0 + 5, image.shape[0]))
    x0 = int(np.clip(round(columns[0] - left * h), 0, image.shape[1] - 4))
    x1 = int(np.clip(round(columns[-1] + 1 + right * h), x0 + 3, image.shape[1]))
    return image[y0:y1, x0:x1], x0


def measure(weights: dict[str, np.ndarray], n_lines: int = 1000) -> dict[str, float]:
    """Shares of lines read correctly, and of lengths that are wrong, on drawn lines in other fonts."""
    rng = np.random.default_rng([7, 1])
    grounds = make_grounds(np.random.default_rng([7, 2]))
    fonts = list_fonts(are_held_out=True)
    results = []
    for _ in range(n_lines):
        line, text, _ = draw_line(rng, grounds, fonts)
        windows = text_reader.cut_windows(text_reader.prepare_line(line))
        reading = text_reader.decode_columns(text_reader.compute_probabilities(windows, weights))
        letters = "".join(text_reader.ALPHABET[number - 1] for number in text_reader.encode_text(text))
        results.append((text_reader.parse_length_nm(letters), reading.length_nm, reading.confidence))
    truth, lengths, confidence = np.array(results).T
    is_length = np.isfinite(truth)
    is_sure = confidence >= MIN_CONFIDENCE
    is_equal = np.isclose(lengths, truth, rtol=1e-6)
    is_wrong = np.isfinite(lengths) & ~is_equal & is_sure
    return {
        "n": n_lines,
        "lengths_read": round(float(is_equal[is_length].mean()), 4),
        "lengths_read_surely": round(float((is_equal & is_sure)[is_length].mean()), 4),
        "lengths_wrong_surely": round(float(is_wrong[is_length].mean()), 4),
        "others_taken_for_lengths": round(float(is_wrong[~is_length].mean()), 4),
    }


if __name__ == "__main__":
    main()
