"""Tables of a messy archive, as the stages before the report leave them."""

import cv2
import numpy as np
import pandas as pd

from emqa_dask import tables
from emqa_dask.report import overlays, page
from emqa_dask.report.classifier_counts import ClassifierCounts, ClassifierSection, find_most_drifted
from emqa_dask.report.galleries import Galleries
from emqa_dask.report.page_content import Copies, PageContent, ReportedWorkspace
from emqa_dask.report.picture_pages import PICTURES_PER_FILE, write_pictures
from emqa_dask.report.row_pages import RowPages
from emqa_dask.report.triage_counts import Overview
from emqa_dask.settings import Triage
from emqa_dask.triage import decide
from emqa_dask.triage.detector_choice import select_detector
from emqa_dask.triage.rows import describe_failures, join_tables, list_files
from emqa_dask.triage.rules import CLASSIFIER_CODES, RULES

NAMES = (
    "a b/plain name.tif",
    "<script>window.hacked=1</script>.tif",
    "</script><img src=x onerror=window.hacked=1>.png",
    "quote\"s & 'apostrophes'.mrc",
    "new\nline\ttab.tif",
    "bidi \u202egnp.exe",
    "=cmd|' /C calc'!A0.tif",
    "\u6d4b\u8bd5/Gef\u00fcge \u00b5m.dm4",
    "{{ 7*7 }}{% raw %}.tif",
    "a/" + "very_long_name_" * 12 + ".tif",
)
FLAGS = (
    "blur", "drift", "astigmatism", "saturation", "under_exposure", "charging", "x_rays", "banner", "scale_bar",
    "blank", "photograph", "plot", "diffraction", "eds_map", "duplicate", "near_duplicate", "nonfinite_pixels",
    "too_small", "flag_of_the_future",
)  # fmt: skip


def make_archive(n_files: int = 60, seed: int = 0) -> dict[str, pd.DataFrame]:
    """catalog, micrographs, features, predictions, flags: every kind of file, flag and gap that we know of."""
    rng = np.random.default_rng(seed)
    uris = [NAMES[i] if i < len(NAMES) else f"session_{i % 5}/image_{i:05d}.tif" for i in range(n_files)]
    status = rng.choice(["ok", "ok", "ok", "ok", "ok", "ok", "failed", "skipped"], n_files)
    n_frames = np.where(status == "ok", rng.choice([1, 1, 1, 4], n_files), 0)
    partly = (status == "failed") & (rng.random(n_files) < 0.3)
    n_frames[partly] = 2
    catalog = pd.DataFrame(
        {
            "uri": uris,
            "content_sha256": [f"{i:064x}" for i in range(n_files)],
            "size_bytes": rng.integers(0, 1 << 24, n_files),
            "modified_ns": 0,
            "format": rng.choice(["TIFF", "MRC", "DM3", "PNG"], n_files),
            "kind": "micrograph",
            "status": np.where(partly, "ok", status),
            "reason": np.where(
                partly, "1 of 3 frames could not be read", np.where(status == "ok", "", "the file <b>ends</b> early")
            ),
            "error": pd.Series(np.where(status == "failed", "ValueError: bad </script> tag", None), dtype=object),
            "n_frames": n_frames.astype("int32"),
            "n_frames_lost": partly.astype("int32"),
        }
    )
    index = np.repeat(np.arange(n_files), n_frames)
    n = len(index)
    frame = np.concatenate([np.arange(k) for k in n_frames]) if n else np.empty(0, int)
    micrographs = tables.empty(tables.MICROGRAPHS).reindex(range(n))
    ids = np.array([f"{seed:08x}{i:024x}" for i in range(n)])
    height = rng.choice([256, 512, 1024, 1], n, p=[0.3, 0.35, 0.33, 0.02])
    micrographs = micrographs.assign(
        micrograph_id=ids,
        uri=np.array(uris, object)[index],
        frame=frame.astype("int32"),
        content_sha256=catalog["content_sha256"].to_numpy()[index],
        height_px=height,
        width_px=np.where(height == 1, 100_000, height * rng.choice([1, 2], n)),
        nm_per_pixel=np.where(rng.random(n) < 0.2, np.nan, rng.choice([0.05, 0.31, 0.5, 1.2], n)),
        nm_per_pixel_source=rng.choice(["header", "sidecar", "user", "none"], n),
        is_nm_per_pixel_suspect=rng.random(n) < 0.05,
        session=[f"session_{i % 5}, Themis, {94 + i % 2}000x" for i in index],
        instrument="Themis",
        acquired=[f"2021-0{1 + i % 6}-{1 + i % 28:02d}T{i % 24:02d}:00:00" for i in index],
        voltage_kv=300.0,
        magnification=94_000.0 + 1000 * (index % 2),
        partition=[f"{i % 3}-stack-00000000" for i in range(n)],
    )
    n_detections = np.where(rng.random(n) < 0.1, 0, rng.integers(1, 400, n))
    is_empty = n_detections == 0
    mean = np.where(is_empty, np.nan, np.clip(rng.beta(6, 2, n), 0, 1))
    spread = rng.uniform(0.02, 0.2, n)
    quantiles = np.clip(mean[:, None] + spread[:, None] * np.linspace(-1.2, 1.2, len(tables.F1_LEVELS)), 0, 1)
    features = pd.DataFrame(
        {"micrograph_id": ids, "n_detections": n_detections, "is_capped": (n_detections > 390).astype(float)}
    )
    predictions = pd.DataFrame(
        {
            "micrograph_id": ids,
            "predicted_f1": mean,
            "predicted_f1_low": np.clip(mean - spread, 0, 1),
            "predicted_f1_high": np.clip(mean + spread, 0, 1),
            **dict(zip(tables.F1_QUANTILES, quantiles.T)),
            "ood_distance": np.where(is_empty, np.nan, rng.lognormal(-0.8, 0.6, n)),
            "evidence": np.where(is_empty, "no_detections", "detections"),
            "because": [[] if empty else ["noise floor is 0.1", "contrast is 0.5 & low"] for empty in is_empty],
        }
    )
    flagged = [(i, f) for i in range(n) for f in FLAGS if rng.random() < 0.02]
    flags = pd.DataFrame(
        [(ids[i], f, 1.5, 1.0, f"{f} measured 1.5 & the <limit> is 1.0") for i, f in flagged],
        columns=tables.FLAGS.names,
    )
    is_kept = rng.random(n) > 0.03  # a stage that did not finish leaves gaps
    return {
        "catalog": catalog,
        "micrographs": micrographs,
        "features": features[is_kept],
        "predictions": predictions[is_kept],
        "flags": flags,
    }


def list_f1_quantiles(tenth: float) -> dict[str, float]:
    """Quantiles of an F1 that reaches `tenth` with a probability of 0.9."""
    return {name: tenth + 0.15 * (level - 0.1) for name, level in zip(tables.F1_QUANTILES, tables.F1_LEVELS)}


def join_archive(catalog, micrographs, features, predictions, failures=None, classifications=None) -> pd.DataFrame:
    """Rows that decide() takes, of tables as make_archive() returns them, by uri and frame."""
    detector = {"detector": "log"}
    selected = select_detector(features.assign(**detector), predictions.assign(**detector), ["log"], 1.0)
    if failures is not None:
        micrographs = micrographs.assign(failure=describe_failures(micrographs["micrograph_id"], failures))
    joined = join_tables(micrographs, features, selected, classifications)
    rows = pd.concat([list_files(catalog).astype(object), joined.astype(object)], ignore_index=True)
    return rows.sort_values(["uri", "frame"], kind="stable", ignore_index=True)


def decide_archive(settings: Triage, flags: pd.DataFrame, **archive) -> pd.DataFrame:
    """The triage table of tables as make_archive() returns them."""
    return decide(join_archive(**archive), flags, settings)


def make_pictures(micrographs: pd.DataFrame, features: pd.DataFrame, seed: int = 0) -> dict[str, pd.DataFrame]:
    """detections and thumbnails: blobs on noise, with a box around each."""
    rng = np.random.default_rng(seed)
    counts = features.set_index("micrograph_id")["n_detections"]
    pictures = []
    parts = []
    for row in micrographs.itertuples():
        scale = 256 / max(row.height_px, row.width_px)
        height, width = max(1, round(row.height_px * scale)), max(1, round(row.width_px * scale))
        picture = rng.normal(118, 18, (height, width)).astype(np.float32)
        n = int(counts.get(row.micrograph_id, 0)) // 4
        y, x = rng.uniform(0, row.height_px, n), rng.uniform(0, row.width_px, n)
        radius = rng.uniform(0.015, 0.04, n) * row.width_px
        score = rng.beta(4, 2, n)
        for cy, cx, r, s in zip(y * scale, x * scale, radius * scale, score, strict=True):
            cv2.circle(picture, (int(cx), int(cy)), max(1, int(r)), 118 + 100 * float(s), -1, cv2.LINE_AA)
        picture = cv2.GaussianBlur(picture, (0, 0), 1.2)
        jpeg = cv2.imencode(".jpg", np.clip(picture, 0, 255).astype(np.uint8))[1].tobytes()
        pictures.append({"micrograph_id": row.micrograph_id, "jpeg": jpeg})
        parts.append(
            pd.DataFrame(
                {"y_px": y, "x_px": x, "y0": y - radius, "x0": x - radius, "y1": y + radius, "x1": x + radius,
                 "score": score, "micrograph_id": row.micrograph_id}
            )
        )  # fmt: skip
    rows = pd.concat([tables.empty(tables.DETECTIONS), *parts], ignore_index=True)
    return {"detections": rows, "thumbnails": pd.DataFrame(pictures, columns=tables.THUMBNAILS.names)}


KINDS_OF_COHORTS = ("none", "acquisition", "new_class", None, "unrelated")
COHORTS = ("session_0", "session_1", "<b>session</b> 2", "session_3 " + "long_" * 12, "session_4")
KINDS = {  # of shift: share of the images, shift score, entropy
    "none": (0.7, (-1.0, 0.9), (0.0, 1.0)),
    "acquisition": (0.12, (1.0, 2.5), (0.1, 0.9)),
    "new_class": (0.12, (1.0, 4.0), (0.5, 1.3)),
    "unrelated": (0.06, (2.0, 60.0), (0.2, 1.5)),
}
CLASSES = ("faceted", "equiaxed grains", "<script>window.hacked=1</script>", "loops \u202e")


def make_classifications(micrographs: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Rows of tables.CLASSIFICATIONS with cohort and entropy_limit_nats: every kind of shift, refusals, and gaps."""
    rng = np.random.default_rng(seed)
    n = len(micrographs)
    kind = rng.choice(list(KINDS), n, p=[of[0] for of in KINDS.values()])
    score, entropy = (np.array([rng.uniform(*KINDS[k][which]) for k in kind]) if n else np.zeros(0) for which in (1, 2))
    is_refused = rng.random(n) < 0.05
    rows = tables.empty(tables.CLASSIFICATIONS).reindex(range(n))
    rows = rows.assign(
        micrograph_id=micrographs["micrograph_id"].to_numpy(object),
        classifier="grains <64>",
        n_members=np.where(is_refused, 0, 5).astype("int16"),
        refusal=np.where(is_refused, "it is smaller than 64 px", None),
        predicted_class=np.where(is_refused, None, rng.choice(np.array(CLASSES, object), n)),
        class_probability=np.where(is_refused, np.nan, 1 - entropy / 2),
        predictive_entropy_nats=np.where(is_refused, np.nan, entropy),
        mutual_information_nats=np.where(is_refused, np.nan, entropy * 0.3),
        imaging_distance=np.where(rng.random(n) < 0.5, np.nan, rng.gamma(2, 0.3, n)),
        shift_score=np.where(is_refused, np.nan, score),
        shift=np.where(is_refused, None, kind),
        shift_probability=np.where(is_refused | (kind == "none"), np.nan, 0.8),
        because=[["its spectrum & <noise> differ", "contrast 0.2 against 0.6"] if k != "none" else [] for k in kind],
        cohort=np.array(COHORTS, object)[rng.integers(0, len(COHORTS), n)] if n else None,
        entropy_limit_nats=0.8,
    )
    return rows[rng.random(n) > 0.05].reset_index(drop=True)


def make_section(triage: pd.DataFrame, classifications: pd.DataFrame, n_batch: int = 50) -> ClassifierSection | None:
    """The section as the pipeline makes it, with drift of its cohorts and a quantity over time."""
    classes = ClassifierCounts()
    for k in range(0, len(triage), n_batch):
        classes.add(triage[k : k + n_batch], classifications)
    drifts = pd.DataFrame(
        [
            (name, quantity, "held_out", 40 - k, 0.4 + k * 0.1, 0.4, 0.01 * k, effect, 0.001 if effect > 0.4 else 0.6)
            for k, name in enumerate(COHORTS)
            for quantity, effect in (("shift_score", 0.3 * k - 0.5), ("noise_floor", 0.05))
        ],
        columns=["cohort", "quantity", "reference", "n", "median", "reference_median", "statistic", "effect",
                 "p_corrected"],
    )  # fmt: skip
    drifts["is_drifted"] = drifts["effect"].gt(0.4)
    start = pd.Series(pd.date_range("2021-03-01", periods=12, freq="7D", unit="s"))
    middle = np.linspace(0.3, 1.4, 12)
    times = pd.DataFrame({"start": start, "end": start + pd.Timedelta(days=7), "n": np.arange(12) + 9})
    times = times.assign(median=middle, low=middle - 0.5, high=middle * 2).drop(index=[4, 5])
    kinds = dict(zip(COHORTS, KINDS_OF_COHORTS))
    return classes.make_section(
        tables.conform(drifts, tables.DRIFTS).to_pandas(), find_most_drifted(drifts), times, kinds
    )


def maps_of(micrographs: pd.DataFrame) -> pd.DataFrame:
    """Rows of tables.REGIONS: 3 x 4 overlapping windows over each micrograph that has a size, surest on the left."""
    rows = micrographs.dropna(subset=["height_px", "width_px"])
    rows = rows[rows["height_px"].gt(8) & rows["width_px"].gt(8)]
    results = []
    for name, height, width in rows[["micrograph_id", "height_px", "width_px"]].itertuples(index=False):
        window = {"height_px": height / 2, "width_px": width / 2}
        starts = {"y0": np.linspace(0, height / 2, 3), "x0": np.linspace(0, width / 2, 4)}
        results.append({"micrograph_id": name, **window, **starts, "predictive_entropy_nats": np.tile(np.arange(4), 3)})
    return pd.DataFrame(results)


def render_page(
    triage,
    detections,
    thumbnails,
    facts,
    settings: Triage,
    n_batch: int = 50,
    classes=None,
    regions=None,
    max_rows=1000,
) -> dict[str, str]:
    """Files of a report by name, as the pipeline makes them of tables on disk: rows in batches, numbers by column."""
    report = {name: data.decode() for name, data in page.read_assets().items()}
    overview = Overview(max_rows)
    galleries = Galleries()
    pages = RowPages(report.__setitem__, "test", has_classes=bool(classes))
    table = tables.conform(triage, tables.TRIAGE)
    for k in range(0, len(triage), n_batch):
        overview.add(triage[k : k + n_batch])
        galleries.add(triage[k : k + n_batch])
        pages.add(table.slice(k, n_batch))
    rules = [rule for rule in RULES if classes or rule.code not in CLASSIFIER_CODES]
    row_data = pages.describe(rules)
    shown = triage.reset_index(drop=True).loc[np.union1d(overview.choose_shown_rows(), galleries.list_positions())]
    jpegs = dict(zip(thumbnails["micrograph_id"], thumbnails["jpeg"], strict=True))
    maps = {} if regions is None else overlays.encode_entropy_maps(shown, regions, 4.0)
    boxes = overlays.encode_boxes(shown, detections)
    content = PageContent(
        overview=overview,
        read_column=lambda name: triage[name].to_numpy(float, na_value=np.nan),
        row_data=row_data,
        groups=pages.groups,
        galleries=galleries.list_galleries(),
        jpegs=jpegs,
        first_rows=triage.head(25),
        picture_rows=write_pictures(report.__setitem__, shown, jpegs, boxes, maps, {}),
        pictures_per_file=PICTURES_PER_FILE,
        trends=[],
        n_sampled=0,
        copies=Copies(0, 0, []),
        alarms=tables.empty(tables.ALARMS),
        workspaces=[ReportedWorkspace("ws", "/data/", len(triage), "index.html", "")],
        facts=facts,
        settings=settings,
        rules=rules,
        classes=classes,
    )
    return report | {"index.html": "".join(page.render_page(content))}


def write_report(report: dict[str, str], folder) -> None:
    """Writes the files of a report into `folder`."""
    for name, text in report.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
