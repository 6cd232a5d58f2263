import cv2
import numpy as np
import pytest

from emqa_dask.synthetic import textures
from emqa_dask.synthetic.conditions import CONDITIONS, reacquire
from emqa_dask.synthetic.contents import CONTENTS
from emqa_dask.synthetic.shifts import KINDS, make_shifted_examples

EXPOSURE = {"dose_e_per_px": 300.0, "mtf_sigma_px": 0.4, "gain_spread": 0.0, "read_noise_e": 0.0, "seam": False}


def fields_of_view(n, shape, dtype="uint8"):
    rng = np.random.default_rng(3)
    return [textures.draw_texture(rng, shape, lot=k % 4, dtype=dtype, exposure=EXPOSURE).image for k in range(n)]


@pytest.mark.parametrize("shape", [(64, 64), (64, 97), (150, 80), (300, 280)])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_every_image_gives_one_stored_image_per_kind(shape, dtype):
    images = fields_of_view(4, shape, dtype)
    before = [image.copy() for image in images]
    made = make_shifted_examples(images, 1)
    assert tuple(made) == KINDS
    for some in made.values():
        assert [(m.shape, m.dtype) for m in some] == [(i.shape, i.dtype) for i in images]
        assert all(np.isfinite(m).all() and m.std() > 0 for m in some)
        assert not any(np.array_equal(m, i) for m, i in zip(some, images))
    assert all(np.array_equal(a, b) for a, b in zip(before, images))


def test_an_example_follows_from_the_seed_and_its_place_alone():
    images = fields_of_view(6, (64, 64))
    made = make_shifted_examples(images, 5)
    fewer = make_shifted_examples(images[:3], 5)
    other = make_shifted_examples(images, 6)
    for kind in KINDS:
        assert all(np.array_equal(a, b) for a, b in zip(made[kind], fewer[kind]))
        assert not any(np.array_equal(a, b) for a, b in zip(made[kind], other[kind]))
    assert make_shifted_examples([]) == {kind: [] for kind in KINDS}
    rest = make_shifted_examples(images[2:], 5, first=2)
    for kind in KINDS:
        for a, b in zip(rest[kind], made[kind][2:], strict=True):
            np.testing.assert_array_equal(a, b)


def test_acquisition_shifts_keep_content_and_some_classes_keep_tones():
    images = fields_of_view(60, (96, 96))
    made = make_shifted_examples(images, 2)
    new = made["new_class"]

    def alike(kind):
        found = [abs(np.corrcoef(i.ravel().astype(float), m.ravel())[0, 1]) for i, m in zip(images, made[kind])]
        return np.median(found)

    assert alike("acquisition") > 0.6
    assert alike("new_class") < 0.2
    assert alike("unrelated") < 0.2
    tones = [np.abs(np.sort(i, axis=None).astype(float) - np.sort(m, axis=None)).max() for i, m in zip(images, new)]
    assert 0.2 < np.mean(np.array(tones) <= 1) < 0.6  # but for the rounding; the others are others


def noise(image):
    return np.median(np.abs(cv2.Laplacian(image.astype(np.float32), cv2.CV_32F)))


def test_new_classes_with_equal_tones_have_equal_noise():
    images = fields_of_view(60, (96, 96))
    made = make_shifted_examples(images, 4)["new_class"]
    alike = [abs(np.sort(i, axis=None).astype(int) - np.sort(m, axis=None)).max() <= 1 for i, m in zip(images, made)]
    ratio = [noise(m) / noise(i) for i, m, a in zip(images, made, alike) if a]
    assert 0.6 < np.median(ratio) < 1.6


@pytest.mark.parametrize(
    "image",
    [np.zeros((63, 80)), np.zeros((70, 70, 3)), np.full((64, 64), np.nan), np.zeros((64, 64), complex)],
    ids=["small", "colour", "nan", "complex"],
)
def test_what_is_no_image_is_refused_by_its_place(image):
    good = np.random.default_rng(0).random((64, 64))
    with pytest.raises(ValueError, match="image 1 "):
        make_shifted_examples([good, image])


def test_constant_and_partly_unknown_images_are_no_obstacle():
    holed = np.random.default_rng(0).random((80, 80)).astype(np.float32)
    holed[10:20, 10:20] = np.nan
    for some in make_shifted_examples([np.full((64, 64), 7, np.uint8), holed], 3).values():
        assert all(np.isfinite(image).all() for image in some)


def unit_image(shape):
    image = fields_of_view(1, shape)[0].astype(np.float32)
    return (image - image.min()) / np.float32(np.ptp(image))


@pytest.mark.parametrize("name", CONDITIONS)
def test_every_condition_changes_the_image_but_not_its_content(name):
    unit = unit_image((96, 110))
    before = unit.copy()
    found = [CONDITIONS[name](np.random.default_rng(seed), unit) for seed in range(8)]
    assert np.array_equal(unit, before)
    assert all(made.shape == unit.shape and np.isfinite(made).all() for made in found)
    assert not any(np.array_equal(made, unit) for made in found)
    again = CONDITIONS[name](np.random.default_rng(3), unit)
    np.testing.assert_array_equal(again, found[3])
    if name not in ("magnification", "transfer"):  # which move every detail, and take some away
        alike = [abs(np.corrcoef(made.ravel(), unit.ravel())[0, 1]) for made in found]
        assert np.median(alike) > 0.35


@pytest.mark.parametrize("name", CONTENTS)
def test_every_content_is_drawn_at_any_size(name):
    for shape in ((64, 64), (64, 130), (301, 280)):
        made = [CONTENTS[name](np.random.default_rng(seed), shape) for seed in (0, 1, 0)]
        assert all(m.shape == shape and np.isfinite(m).all() and np.std(m) > 0 for m in made)
        np.testing.assert_array_equal(made[0], made[2])
        assert not np.array_equal(made[0], made[1])


def test_conditions_may_be_left_out():
    unit = unit_image((64, 64))
    for seed in range(20):
        made = reacquire(np.random.default_rng(seed), unit, ["gain", "inversion"])
        assert abs(np.corrcoef(made.ravel(), unit.ravel())[0, 1]) > 0.999  # linear in the grey values, both
    with pytest.raises(KeyError):
        reacquire(np.random.default_rng(0), unit, ["weather"])
    images = fields_of_view(3, (64, 64))
    some = make_shifted_examples(images, 1, conditions=["noise"])
    assert not np.array_equal(some["acquisition"][0], make_shifted_examples(images, 1)["acquisition"][0])
    np.testing.assert_array_equal(some["unrelated"][2], make_shifted_examples(images, 1)["unrelated"][2])
