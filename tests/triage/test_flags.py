"""Every fault raises its flag and a good image none; duplicates are found whatever the order of the rows."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from benchmarks.copies_in_memory import flag_duplicates
from emqa_dask import tables
from emqa_dask.featurise.images import image_features
from emqa_dask.settings import Flags
from emqa_dask.synthetic.faults import FAULTS, FOREIGN, apply_fault, make_foreign_image, make_near_duplicate
from emqa_dask.synthetic.profiles import make_sample
from emqa_dask.triage import duplicates, flags
from emqa_dask.triage.flag_list import FLAGS, Flag
from emqa_dask.triage.flags import DEFAULT_LIMITS, flag_images, measure_flag
from emqa_dask.triage.sign_correlation import correlate_signs

SWITCHES = {field.name for field in dataclasses.fields(Flags) if isinstance(field.default, bool)}


def features_of(*images, colour=0.0):
    return pd.DataFrame(
        [{"micrograph_id": f"m{k}", **image_features(im, colour_fraction=colour)} for k, im in enumerate(images)]
    )


@pytest.fixture(scope="module")
def good():
    return make_sample("sem-texture", np.random.default_rng(3), (512, 512)).image


def test_good_images_raise_no_flag(good):
    rng = np.random.default_rng(12)
    others = [
        make_sample(profile, rng, (512, 512)).image for profile in ("cavity-tem", "nanoparticle-tem", "atomic-stem")
    ]
    assert flag_images(features_of(good, *others)).empty


@pytest.mark.parametrize("fault", [f for f in FAULTS if f not in FOREIGN and "duplicate" not in f])
def test_every_fault_raises_its_flag(good, fault):
    faulty = [apply_fault(fault, good, np.random.default_rng(seed)) for seed in range(2)]
    found = flag_images(features_of(*faulty))
    for k in range(2):
        assert fault in set(found.loc[found["micrograph_id"] == f"m{k}", "flag"])


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_pictures_raise_their_flag(name):
    picture = make_foreign_image(name, np.random.default_rng(2), (400, 512))
    colour = 0.0
    if picture.ndim == 3:
        colour = float((np.ptp(picture.astype(int), axis=2) > 20).mean())
        picture = np.rint(picture @ [0.299, 0.587, 0.114]).astype(np.uint8)
    assert name in set(flag_images(features_of(picture, colour=colour))["flag"])


@pytest.mark.parametrize(
    ("image", "flags"),
    [
        (np.zeros((1, 1)), {"too_small", "blank"}),
        (np.zeros((1, 100_000), np.uint8), {"too_small", "blank"}),
        (np.full((64, 64), np.nan), {"no_finite_pixels"}),
        (np.full((64, 64), 9, np.uint16), {"blank"}),
    ],
)
def test_degenerate_images_say_what_they_are(image, flags):
    assert set(flag_images(features_of(image))["flag"]) == flags


def test_non_finite_pixels_are_flagged_beside_the_rest(good):
    image = good.astype(np.float32)
    image[0, 0] = np.inf
    found = flag_images(features_of(image))
    assert list(found["flag"]) == ["nonfinite_pixels"]


def test_a_flag_has_value_and_limit_in_its_text(good):
    blurred = apply_fault("blur", good, np.random.default_rng(0))
    row = flag_images(features_of(blurred)).set_index("flag").loc["blur"]
    assert row["value"] < row["limit"] == DEFAULT_LIMITS.blur_detail_cpp
    assert f"{row['value']:.3f}" in row["text"]
    assert f"{row['limit']:.3f}" in row["text"]


def test_limits_are_settings(good):
    features = features_of(good)
    strict = flag_images(features, Flags(too_small_px=10_000))
    assert list(strict["flag"]) == ["too_small"]
    assert strict["limit"].tolist() == [10_000]
    with pytest.raises(KeyError):
        flag_images(features.drop(columns="short_side_px"))


def test_every_flag_has_a_switch(good):
    assert {flag.code for flag in FLAGS} | {"duplicate", "near_duplicate"} == SWITCHES
    low = dict.fromkeys(tables.IMAGE_STATISTICS, 0.0)
    high = dict.fromkeys(tables.IMAGE_STATISTICS, 1e9)
    sizes = {"nm_per_pixel": 0.5, "nm_per_pixel_y": 0.25, "pixel_size_problem": "two entries contradict each other"}
    features = pd.DataFrame([{"micrograph_id": "low", **low}, {"micrograph_id": "high", **high, **sizes}])
    found = flag_images(features)
    raised = set(found["flag"])
    assert len(raised) > 10
    assert raised >= {"non_square_pixels", "pixel_size_conflict"}
    for code in raised:
        rest = flag_images(features, Flags(**{code: False}))
        pd.testing.assert_frame_equal(rest, found[found["flag"] != code].reset_index(drop=True))
    assert flag_images(features, Flags(**dict.fromkeys(SWITCHES, False))).empty


@pytest.mark.parametrize("flag", FLAGS, ids=[f"{flag.code}-{k}" for k, flag in enumerate(FLAGS)])
def test_every_limit_is_a_setting_of_its_unit(flag):
    assert isinstance(flag.limit, float) or flag.limit in Flags.RANGES
    assert not isinstance(flag.statistic, str) or flag.statistic in tables.IMAGE_STATISTICS
    assert flag.verdict in ("junk", "review", "note")


def test_every_limit_counts_for_a_flag():
    rng = np.random.default_rng(0)
    values = [0.0, 0.05, 0.2, 0.4, 0.6, 0.9, 1.6, 3.0, 5.0, 30.0, 300.0]
    names = [*tables.IMAGE_STATISTICS, "nm_per_pixel", "nm_per_pixel_y"]
    features = pd.DataFrame({name: rng.choice(values, 50_000) for name in names})

    def raised(settings: Flags) -> np.ndarray:
        with np.errstate(all="ignore"):
            return np.array([measure_flag(flag, features, settings)[2] for flag in FLAGS])

    expected = raised(Flags())
    for name, limits in Flags.RANGES.items():
        ends = [type(getattr(Flags(), name))(end) for end in (limits.low, limits.high)]
        assert any((raised(Flags(**{name: end})) != expected).any() for end in ends), name


def test_no_rows_give_an_empty_table_with_all_columns():
    nothing = tables.empty(tables.FEATURES)
    assert list(flag_images(nothing).columns) == tables.FLAGS.names
    assert flag_images(nothing).empty
    assert flag_duplicates(tables.empty(tables.MICROGRAPHS), nothing).empty


def test_every_rule_writes_its_sentence_for_any_numbers():
    row = dict.fromkeys(tables.IMAGE_STATISTICS, 1000000000.0)
    low = dict.fromkeys(tables.IMAGE_STATISTICS, 0.0)
    features = pd.DataFrame([{"micrograph_id": "a", **row}, {"micrograph_id": "b", **low}])
    found = flag_images(features)
    assert set(found["flag"]) <= {flag.code for flag in FLAGS}
    assert not found["text"].str.contains("{", regex=False).any()


def archive(images):
    features = features_of(*images)
    rows = pd.DataFrame(
        {
            "micrograph_id": features["micrograph_id"],
            "uri": [f"folder/{k:03d}.tif" for k in range(len(images))],
            "frame": 0,
            "content_sha256": [f"c{k}" for k in range(len(images))],
            "pixel_sha256": [str(hash(im.tobytes())) for im in images],
            "height_px": [im.shape[0] for im in images],
            "width_px": [im.shape[1] for im in images],
            "dtype": [str(im.dtype) for im in images],
        }
    )
    return rows, features


@pytest.fixture(scope="module")
def copies():
    rng = np.random.default_rng(5)
    originals = [
        make_sample(profile, rng, (384, 384)).image
        for profile in ("cavity-tem", "nanoparticle-tem", "atomic-stem", "sem-texture") * 3
    ]
    near = [make_near_duplicate(image, rng) for image in originals]
    return archive([*originals, *near, originals[0].copy(), originals[5].copy()])


def test_copies_are_found_and_originals_are_not(copies):
    found = flag_duplicates(*copies).set_index("micrograph_id")
    assert list(found.loc[["m24", "m25"], "flag"]) == ["duplicate", "duplicate"]
    assert set(found.index) == {f"m{k}" for k in range(12, 26)}
    assert (found.loc[[f"m{k}" for k in range(12, 24)], "flag"] == "near_duplicate").all()
    assert "folder/005.tif" in found.loc["m25", "text"]
    for k in range(12):
        assert f"folder/{k:03d}.tif" in found.loc[f"m{12 + k}", "text"]


def test_the_order_of_rows_does_not_matter(copies):
    rows, features = copies
    expected = flag_duplicates(rows, features)
    for seed in range(3):
        shuffled = flag_duplicates(
            rows.sample(frac=1, random_state=seed), features.sample(frac=1, random_state=seed + 9)
        )
        pd.testing.assert_frame_equal(shuffled, expected)


@pytest.mark.parametrize("name", ["a - Copy.tif", "Copy of x.tif", "a (2).tif", "alt/Kopie.tif"])
def test_what_is_called_a_copy_is_the_copy(name):
    image = np.random.default_rng(0).integers(0, 99, (64, 64), np.uint8)
    rows, features = archive([image, image.copy()])
    rows["uri"] = [name, "z/original.tif"]
    found = flag_duplicates(rows, features)
    assert list(found["micrograph_id"]) == [rows["micrograph_id"][0]]
    assert "z/original.tif" in found["text"][0]


def test_same_bytes_of_another_shape_are_no_duplicate():
    wide = np.zeros((64, 128), np.uint8)
    tall = np.zeros((128, 64), np.uint8)
    rows, features = archive([wide, tall])
    rows["pixel_sha256"] = "same"
    assert flag_duplicates(rows, features).empty


def test_images_without_a_signature_are_left_alone(copies):
    rows, features = copies
    found = flag_duplicates(rows, features.assign(signature=None))
    assert list(found["flag"]) == ["duplicate", "duplicate"]


def many(n, n_copies, seed=0):
    rng = np.random.default_rng(seed)
    tones = np.clip(rng.normal(0, 30, (n, 256)), -127, 127).astype(np.int8)
    grain = rng.integers(0, 256, (n, 512), dtype=np.uint8)
    tones[-n_copies:] = np.clip(tones[:n_copies] + rng.normal(0, 4, (n_copies, 256)), -127, 127).astype(np.int8)
    grain[-n_copies:] = grain[:n_copies]
    rows = pd.DataFrame(
        {
            "micrograph_id": [f"m{k}" for k in range(n)],
            "uri": [f"{k:06d}" for k in range(n)],
            "frame": 0,
            "content_sha256": [f"c{k}" for k in range(n)],
            "pixel_sha256": [f"p{k}" for k in range(n)],
            "height_px": 512,
            "width_px": 512,
            "dtype": "uint8",
        }
    )
    signatures = [t.tobytes() + g.tobytes() for t, g in zip(tones, grain)]
    return rows, pd.DataFrame({"micrograph_id": rows["micrograph_id"], "signature": signatures})


def test_buckets_find_what_comparing_all_pairs_finds(monkeypatch):
    rows, features = many(1500, 100)
    exact = flag_duplicates(rows, features)
    assert len(exact) == 100
    monkeypatch.setattr(duplicates, "MAX_EXHAUSTIVE", 0)
    bucketed = flag_duplicates(rows, features)
    assert len(bucketed) >= 98
    assert set(bucketed["micrograph_id"]) <= set(exact["micrograph_id"])


def fft_agreement(one, other):
    """What correlate_signs() means, by correlation: signs of 64 x 64 px at shifts of up to 16 px, over the overlap."""
    a, b = (2.0 * np.unpackbits(v.astype(">u8").view(np.uint8)).reshape(64, 64) - 1 for v in (one, other))
    crossed = np.fft.irfft2(np.fft.rfft2(a, (128, 128)) * np.fft.rfft2(b, (128, 128)).conj(), (128, 128))
    shift = np.arange(-16, 17)
    return (crossed[np.ix_(shift, shift)] / np.outer(64 - np.abs(shift), 64 - np.abs(shift))).max()


def test_signs_correlate_as_fourier_transforms_say():
    rng = np.random.default_rng(3)
    grain = rng.integers(0, 2**64, (6, 64), dtype=np.uint64)
    grain[3, 5:] = grain[2, :-5] << np.uint64(7)  # the same, moved by 5 rows and 7 columns
    i, j = np.triu_indices(6)
    found = correlate_signs(grain, i, j, 0, 64)
    np.testing.assert_allclose(found, [fft_agreement(grain[a], grain[b]) for a, b in zip(i, j)], atol=1e-12)
    assert found[i == j] == pytest.approx(1)
    assert (
        found[(i == 2) & (j == 3)] == correlate_signs(grain, np.array([3]), np.array([2]), 28, 36) == pytest.approx(1)
    )


def test_few_pairs_are_compared(monkeypatch):
    n_rows_compared = []

    def count_rows(grains, i, j, first, last):
        n_rows_compared[-1] += len(i) * (last - first)
        return correlate_signs(grains, i, j, first, last)

    monkeypatch.setattr("emqa_dask.triage.sign_correlation.correlate_signs", count_rows)
    for n in (5000, 20_000):
        n_rows_compared.append(0)
        assert len(flag_duplicates(*many(n, 100))) >= 97
    assert n_rows_compared[1] < 9 * n_rows_compared[0]  # 16 times is quadratic


@pytest.mark.parametrize("name", ["astronaut.png", "camera.png", "chelsea.png", "coffee.png", "rocket.jpg"])
def test_grey_photographs_are_told_by_their_scene(name):
    import cv2
    from skimage import data

    path = f"{data.__path__[0]}/{name}"
    picture = cv2.resize(cv2.imread(path, cv2.IMREAD_GRAYSCALE), (512, 512), interpolation=cv2.INTER_AREA)
    assert "photograph" in set(flag_images(features_of(picture))["flag"])


def probabilities_of(photograph, drawing, **columns):
    """Flags by content alone: all other statistics are unknown."""
    row = dict.fromkeys(tables.IMAGE_STATISTICS, np.nan) | {"micrograph_id": "a", "colour_fraction": 0.0}
    row |= {"photograph_probability": photograph, "drawing_probability": drawing}
    return list(flag_images(pd.DataFrame([row | columns]))["flag"])


def test_doubtful_pictures_are_for_review_only():
    assert probabilities_of(0.99, 0.0) == ["photograph"]
    assert probabilities_of(0.01, 0.98) == ["plot"]
    assert probabilities_of(0.4, 0.3) == ["doubtful_picture"]
    assert probabilities_of(0.2, 0.2) == []
    assert probabilities_of(np.nan, np.nan) == []
    assert next(flag.verdict for flag in FLAGS if flag.code == "doubtful_picture") == "review"


def test_colour_and_header_are_evidence_beside_the_content():
    """Log odds by hand: logit(0.8) = 1.39; colour adds 4, which gives 0.995; a header takes 6, which gives 0.01."""
    assert probabilities_of(0.8, 0.0) == ["doubtful_picture"]
    assert probabilities_of(0.8, 0.0, colour_fraction=0.6) == ["photograph"]
    assert probabilities_of(0.8, 0.0, has_imaging_conditions=True) == []
    assert probabilities_of(0.999, 0.0, has_imaging_conditions=True) == ["doubtful_picture"]


def test_saturation_counts_no_label_boxes():
    """A white box of 100 x 60 px in a corner is a label; a white disc of the same area is saturated."""
    noise = np.random.default_rng(0).normal(100, 12, (400, 400))
    image = np.clip(np.rint(noise), 0, 200).astype(np.uint8)
    labelled = image.copy()
    labelled[5:65, 5:105] = 255
    y, x = np.mgrid[:400, :400]
    saturated = image.copy()
    saturated[np.hypot(y - 200, x - 200) < np.sqrt(6000 / np.pi)] = 255
    found = features_of(labelled, saturated)
    np.testing.assert_allclose(found["saturated_fraction"], [0.0, 6000 / 160_000], atol=2e-3)
    raised = flag_images(found)
    assert "saturation" not in set(raised.loc[raised["micrograph_id"] == "m0", "flag"])
    assert "saturation" in set(raised.loc[raised["micrograph_id"] == "m1", "flag"])


def test_a_statistic_in_nm_knows_the_pixel_size(monkeypatch):
    """A period of 20 px is 4 nm at 0.2 nm/px, 10 nm at 0.5 nm/px, and unknown without a pixel size."""
    coarse = Flag(
        code="blur",
        verdict="review",
        meaning="Period above 5 nm.",
        statistic=lambda features: features["nm_per_pixel"] / features["detail_cpp"],
        limit=5.0,
        is_above=True,
        text="{value:.0f} nm",
    )
    monkeypatch.setattr(flags, "FLAGS", (coarse,))
    features = pd.DataFrame({"micrograph_id": ["a", "b", "c"], "detail_cpp": 0.05, "nm_per_pixel": [0.2, 0.5, np.nan]})
    raised = flag_images(features)
    assert raised[["micrograph_id", "value", "text"]].to_dict("records") == [
        {"micrograph_id": "b", "value": pytest.approx(10.0), "text": "10 nm"}
    ]
    assert flag_images(features.drop(columns="nm_per_pixel")).empty


@pytest.mark.parametrize(
    ("x_nm", "y_nm", "ratio"),
    [
        (0.5, 0.5, None),
        (0.5, 0.509, None),
        (0.5, 0.515, 1.03),
        (0.515, 0.5, 1.03),
        (2.0, 8.0, 4.0),
        (0.5, np.nan, None),
    ],
)
def test_pixels_that_are_not_square_are_flagged(good, x_nm, y_nm, ratio):
    sizes = features_of(good).assign(nm_per_pixel=x_nm, nm_per_pixel_y=y_nm, pixel_size_problem=None)
    raised = flag_images(sizes)
    if ratio is None:
        assert raised.empty
        return
    assert raised["flag"].tolist() == ["non_square_pixels"]
    assert raised["value"][0] == pytest.approx(ratio)
    assert f"{x_nm:.4g} nm along x and {y_nm:.4g} nm along y" in raised["text"][0]


def test_what_speaks_against_the_pixel_size_is_the_text(good):
    problem = "Scan.PixelWidth states 2.5 nm per pixel, AP_IMAGE_PIXEL_SIZE 1.25 nm"
    features = features_of(good, good).assign(pixel_size_problem=pd.Series([None, problem], dtype=object))
    raised = flag_images(features)
    assert raised[["micrograph_id", "flag"]].values.tolist() == [["m1", "pixel_size_conflict"]]
    assert problem in raised["text"][0]


def test_no_photograph_among_images_with_imaging_conditions():
    from skimage import data

    features = features_of(data.camera())
    assert set(flag_images(features)["flag"]) == {"photograph"}
    assert list(flag_images(features.assign(has_imaging_conditions=True))["flag"]) == ["doubtful_picture"]
