"""Trains the bundled network `scale-text`, which reads what stands at a scale bar, on drawn lines of text only.

python -m benchmarks.fit_scale_text --out DIR [--lines 60000] [--epochs 8] [--processes 2]

Every line is drawn anew: a length with its unit, other text of information bars, or none; in a font of this machine
(those of Debian's packages fonts-liberation, -dejavu, -freefont-ttf, -roboto, -open-sans, -noto-core, -urw-base35,
-lato, -croscore, -cantarell, -inconsolata) or one of OpenCV's; white, black, outlined or on a plate; 6 to 50 px high;
on synthetic micrographs, noise and plain ground; with a bar or parts of one beside it; then blurred, scaled, recorded
as JPEG and cut out with errors as archive.scale_bar.text_lines makes them. DIR gets weights.safetensors and card.toml,
with figures measured on lines of another seed and on fonts that were left out of the training.
"""

import argparse
import multiprocessing
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import torch
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
CHANNELS = (16, 32, 48, 96, 96)  # of the layers of the network
RATE = 3e-3
BATCH = 64
N_GROUNDS = 32
UNITS = ("nm",) * 9 + ("µm",) * 4 + ("\u03bcm",) * 4 + ("um",) * 3 + ("mm", "Å", "pm")  # µ and its Greek twin
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
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    cv2.setNumThreads(1)
    shares = [(-(-options.lines // options.processes), seed) for seed in range(options.processes)]
    with multiprocessing.get_context("fork").Pool(options.processes) as pool:
        lines = [line for part in pool.starmap(draw_lines, shares) for line in part]
    weights = export_weights(train(lines, options.epochs))
    (options.out / text_reader.WEIGHTS).write_bytes(save({k: v.astype(np.float16) for k, v in weights.items()}))
    measurements = measure(weights)
    card = {
        "name": "scale-text",
        "what": "reads the length and the unit at a scale bar; trained on drawn lines of text",
        "architecture": {"alphabet": text_reader.ALPHABET, "channels": list(CHANNELS)},
        "training": {"lines": options.lines, "epochs": options.epochs},
        "measured": measurements,
    }
    models.write_model_card(options.out, card)
    print(measurements)


def draw_lines(n_lines: int, seed: int) -> list[tuple[np.ndarray, str]]:
    """Prepared lines, uint8, and their texts."""
    fonts = list_fonts(are_held_out=False)
    rng = np.random.default_rng([seed, 1])
    grounds = make_grounds(np.random.default_rng([seed, 2]))
    lines = []
    for _ in range(n_lines):
        line, text = draw_line(rng, grounds, fonts)
        lines.append((np.rint(255 * text_reader.prepare_line(line)).astype(np.uint8), text))
    return lines


def build_network() -> torch.nn.Sequential:
    """The network of text_reader.compute_probabilities(), with batch normalisation; (n, 1, 24, w) to (n, k, w / 2)."""
    kernels = ((3, 3), (3, 3), (3, 3), (3, 5), (1, 5))
    pools = ((2, 2), (2, 1), (2, 1), None, None)
    parts: list[torch.nn.Module] = []
    n_in = 1
    for n_out, kernel, pool in zip(CHANNELS, kernels, pools, strict=True):
        padding = (kernel[0] // 2 if pool else 0, kernel[1] // 2)
        parts += [torch.nn.Conv2d(n_in, n_out, kernel, padding=padding), torch.nn.BatchNorm2d(n_out), torch.nn.ReLU()]
        parts += [torch.nn.MaxPool2d(pool)] if pool else []
        n_in = n_out
    letters = torch.nn.Conv2d(n_in, len(text_reader.ALPHABET) + 1, 1)
    return torch.nn.Sequential(*parts, letters, torch.nn.Flatten(2))


def train(lines: list[tuple[np.ndarray, str]], n_epochs: int) -> torch.nn.Sequential:
    """The network, fitted with the CTC loss (Graves et al., ICML 2006) and a rate that falls to zero."""
    torch.manual_seed(3)
    rng = np.random.default_rng(3)
    net = build_network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(net.parameters(), RATE)
    n_steps = n_epochs * (len(lines) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, n_steps, pct_start=0.1)
    for epoch in range(n_epochs):
        losses = []
        order = np.argsort([line.shape[1] + rng.uniform(0, 12) for line, _ in lines])
        starts = rng.permutation(len(lines) // BATCH) * BATCH
        for start in starts:
            loss = compute_loss(net, [lines[k] for k in order[start : start + BATCH]])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            losses.append(float(loss))
        print(f"epoch {epoch + 1} of {n_epochs}: {np.mean(losses):.4f}", flush=True)
    return net.eval()


def compute_loss(net: torch.nn.Sequential, lines: list[tuple[np.ndarray, str]]) -> torch.Tensor:
    """The mean CTC loss of a batch of lines."""
    widths = [line.shape[1] for line, _ in lines]
    batch = np.stack([np.pad(line, ((0, 0), (0, max(widths) - line.shape[1])), mode="edge") for line, _ in lines])
    targets = [text_reader.encode_text(text) for _, text in lines]
    scores = net(torch.from_numpy(batch)[:, None].float() / 255 - 0.5).log_softmax(dim=1)
    return torch.nn.functional.ctc_loss(
        scores.permute(2, 0, 1),
        torch.tensor([number for target in targets for number in target]),
        torch.tensor(widths) // text_reader.STRIDE_PX,
        torch.tensor([len(target) for target in targets]),
        zero_infinity=True,
    )


def export_weights(net: torch.nn.Sequential) -> dict[str, np.ndarray]:
    """Weights of the network as text_reader reads them, the normalisation multiplied into the kernels."""
    weights: dict[str, np.ndarray] = {}
    convolutions = [part for part in net if isinstance(part, torch.nn.Conv2d)]
    norms = [part for part in net if isinstance(part, torch.nn.BatchNorm2d)]
    for k, (part, norm) in enumerate(zip(convolutions, norms, strict=False), start=1):
        factor = (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()
        kernel = part.weight.detach() * factor[:, None, None, None]
        bias = (part.bias.detach() - norm.running_mean) * factor + norm.bias.detach()
        weights |= {f"conv{k}.weight": kernel.permute(0, 2, 3, 1).numpy(), f"conv{k}.bias": bias.numpy()}
    letters = convolutions[-1]
    weights["letters.weight"] = letters.weight.detach()[:, :, 0, 0].numpy()
    weights["letters.bias"] = letters.bias.detach().numpy()
    return {name: np.ascontiguousarray(values) for name, values in weights.items()}


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
) -> tuple[np.ndarray, np.ndarray]:
    """Opacity (h, w) of the letters, 0 to 1, with a margin, and that of their outline (0 without one)."""
    if rng.random() < 0.1 and not any(letter in text for letter in "µ\u03bcÅ°"):
        return draw_hershey(rng, text, height)
    common, uncommon = fonts
    group = common if rng.random() < 0.8 or not uncommon else uncommon
    path = group[rng.integers(len(group))]
    if path.stem.endswith(("Italic", "Oblique")) and rng.random() < 0.7:
        path = common[rng.integers(len(common))]
    is_coarse = rng.random() < 0.12  # letters of few pixels, enlarged: those of the electronics of older microscopes
    size = max(round((rng.uniform(7, 14) if is_coarse else height) * 1.4), 6)
    mode = "1" if rng.random() < (0.6 if is_coarse else 0.1) else "L"
    ink = draw_letters(text, load_font(str(path), size), rng.uniform(0, 0.35) if rng.random() < 0.3 else 0.0, mode)
    stretch = rng.uniform(0.8, 1.25)
    factor = height * 1.4 / size
    method = cv2.INTER_NEAREST if is_coarse and rng.random() < 0.5 else cv2.INTER_LINEAR
    shape = (max(round(ink.shape[1] * stretch * factor), 4), max(round(ink.shape[0] * factor), 4))
    ink = np.pad(cv2.resize(ink, shape, interpolation=method), max(round(0.7 * height), 12))
    if rng.random() < 0.12:
        width = max(round(height * rng.uniform(0.05, 0.14)), 1)
        outline = cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * width + 1, 2 * width + 1)))
        return ink, np.clip(outline - ink, 0, 1)
    return ink, np.zeros(ink.shape, np.float32)


def draw_hershey(rng: np.random.Generator, text: str, height: float) -> tuple[np.ndarray, np.ndarray]:
    """As draw_ink(), in a font of OpenCV."""
    hershey = int(rng.choice(HERSHEY))
    scale = height / cv2.getTextSize("0", hershey, 1, 1)[0][1]
    thickness = max(1, round(height * rng.uniform(0.05, 0.16)))
    (w, h), base = cv2.getTextSize(text, hershey, scale, thickness)
    margin = max(round(0.7 * height), 12)
    canvas = np.zeros((h + base + 2 * margin, w + 2 * margin), np.uint8)
    cv2.putText(canvas, text, (margin, h + margin), hershey, scale, 255, thickness, cv2.LINE_AA)
    return canvas / np.float32(255), np.zeros(canvas.shape, np.float32)


def draw_letters(text: str, font: ImageFont.FreeTypeFont, tracking: float, mode: str) -> np.ndarray:
    """Opacity (h, w) of `text`, its letters `tracking` sizes further apart than the font has them; mode "1" is hard."""
    step = round(tracking * font.size)
    top, bottom = font.getbbox(text)[1::2]
    width = round(font.getlength(text)) + step * len(text)
    picture = Image.new("L", (max(width, 1) + font.size, max(bottom - top, 1)))
    drawing = ImageDraw.Draw(picture)
    drawing.fontmode = mode
    if step:
        for k, letter in enumerate(text):
            drawing.text((font.size // 2 + font.getlength(text[:k]) + step * k, -top), letter, fill=255, font=font)
    else:
        drawing.text((font.size // 2, -top), text, fill=255, font=font)
    return np.asarray(picture, np.float32) / 255


def draw_line(
    rng: np.random.Generator, grounds: list[np.ndarray], fonts: tuple[list[Path], list[Path]]
) -> tuple[np.ndarray, str]:
    """A line as it is cut out of an image, its letters brighter than the ground, float32 (h, w), and its text."""
    kind = rng.random()
    text = draw_text_of_bar(rng) if kind < 0.76 else draw_other_text(rng) if kind < 0.93 else ""
    height = draw_log_uniform(rng, 6.0, 50)
    if text:
        ink, outline = draw_ink(rng, text, height, fonts)
    else:
        ink = np.zeros((round(height) + 24, round(height * rng.uniform(1, 6)) + 24), np.float32)
        outline = ink
    rows, columns = np.flatnonzero(ink.max(1) > 0.3), np.flatnonzero(ink.max(0) > 0.3)
    rows = rows if rows.size else np.arange(12, ink.shape[0] - 12)
    columns = columns if columns.size else np.arange(12, ink.shape[1] - 12)
    ground = draw_ground(rng, grounds, ink.shape)
    near = float(np.median(ground[rows[0] : rows[-1] + 1]))
    value = 255.0 if rng.random() < 0.75 else rng.uniform(120, 255)
    value = max(value, min(near + rng.uniform(50, 120), 255))
    if near > value - 40:  # letters are brighter than the ground: what is dark was inverted before
        ground -= near - rng.uniform(0, value - (50 if rng.random() < 0.7 else 25))
    if rng.random() < 0.18:
        ground = np.full(ink.shape, rng.uniform(0, 40), np.float32) if rng.random() < 0.8 else ground * 0.3
    if rng.random() < 0.2:
        add_plate(rng, ground, rows, columns, height)
    bar_ink = ink.copy()
    if rng.random() < 0.4:
        add_bar(rng, bar_ink, rows, columns, height)
    image = ground * (1 - outline) + outline * rng.uniform(0, 60)
    image = image * (1 - bar_ink) + bar_ink * value
    image = degrade(rng, np.clip(image, 0, 255), height)
    return cut_line(rng, image, rows, columns), text


def add_plate(
    rng: np.random.Generator, ground: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: float
) -> None:
    """Makes `ground` plain and dark around the text; the plate's edge can be within the line that is cut out."""
    y0, x0 = (int(max(v - rng.uniform(0.03, 0.4) * height, 0)) for v in (rows[0], columns[0]))
    y1, x1 = (int(v + 1 + rng.uniform(0.03, 0.4) * height) for v in (rows[-1], columns[-1]))
    plain = np.full(ground[y0:y1, x0:x1].shape, rng.uniform(0, 40), np.float32)
    ground += rng.uniform(0, 200)
    ground[y0:y1, x0:x1] = plain


def add_bar(rng: np.random.Generator, ink: np.ndarray, rows: np.ndarray, columns: np.ndarray, height: float) -> None:
    """Draws a bar above, below or beside the text into `ink`, or a line of a frame."""
    thick = max(1, round(height * rng.uniform(0.04, 0.35)))
    gap = max(1, round(height * rng.uniform(0.04, 0.5)))
    if rng.random() < 0.25:
        y = rng.integers(rows[0], max(rows[-1] - thick, rows[0] + 1))
        if rng.random() < 0.5:
            ink[y : y + thick, : max(columns[0] - gap - round(0.15 * height), 0)] = 1
        else:
            ink[y : y + thick, columns[-1] + gap + round(0.15 * height) :] = 1
        return
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


def cut_line(rng: np.random.Generator, image: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The part of `image` with the text, its margins about those of text_lines.cut_line()."""
    h = rows[-1] - rows[0] + 1
    top, bottom = rng.normal(0.15, 0.06, 2) if rng.random() < 0.8 else rng.uniform(-0.05, 0.5, 2)
    left, right = rng.normal(0.3, 0.12, 2) if rng.random() < 0.8 else rng.uniform(0, 1.2, 2)
    y0 = int(np.clip(round(rows[0] - top * h), 0, image.shape[0] - 6))
    y1 = int(np.clip(round(rows[-1] + 1 + bottom * h), y0 + 5, image.shape[0]))
    x0 = int(np.clip(round(columns[0] - left * h), 0, image.shape[1] - 4))
    x1 = int(np.clip(round(columns[-1] + 1 + right * h), x0 + 3, image.shape[1]))
    return image[y0:y1, x0:x1]


def measure(weights: dict[str, np.ndarray], n_lines: int = 1000) -> dict[str, float]:
    """Shares of lines read correctly, and of lengths that are wrong, on drawn lines in other fonts."""
    rng = np.random.default_rng([7, 1])
    grounds = make_grounds(np.random.default_rng([7, 2]))
    fonts = list_fonts(are_held_out=True)
    results = []
    for _ in range(n_lines):
        line, text = draw_line(rng, grounds, fonts)
        reading = text_reader.decode_columns(text_reader.compute_probabilities(text_reader.prepare_line(line), weights))
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
