"""Shifted and rescaled copies: their map, and what is no copy."""

import cv2
import numpy as np
import pytest

from emqa_dask.featurise.landmarks import compute_landmarks
from emqa_dask.landmark_codes import LANDMARKS_BYTES
from emqa_dask.pipeline.commands.report_groups import list_group_members
from emqa_dask.synthetic.lattices import draw_lattice
from emqa_dask.synthetic.particles import draw_particles
from emqa_dask.triage import landmark_search
from emqa_dask.triage.landmark_search import find_field_copies


@pytest.fixture(scope="module")
def field():
    """A field of particles, 0 to 1."""
    image = draw_particles(np.random.default_rng(4), (1000, 1000)).image.astype(np.float32)
    low, high = np.percentile(image, [0.1, 99.9])
    return np.clip((image - low) / (high - low), 0, 1)


def search(images):
    """Copies among `images`, in their order."""
    packed = np.frombuffer(b"".join(map(compute_landmarks, images)), np.uint8).reshape(-1, LANDMARKS_BYTES)
    heights_px, widths_px = np.array([image.shape for image in images]).T
    return find_field_copies(np.arange(len(images), dtype=np.int32), heights_px, widths_px, packed.__getitem__)


def resize(image, shape):
    return cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA)


def test_a_shifted_and_rescaled_copy_has_its_map(field):
    image = field[100:500, 100:500]
    copy = resize(field[60:460, 150:550], (300, 300)) ** 1.4
    copies = search([image, field[500:900, 500:900], copy])
    assert (copies.row.tolist(), copies.original.tolist(), copies.is_whole.tolist()) == ([2], [0], [False])
    # A pixel at y of the image is at y + 40 of the copy's field, whose pixels are 4 / 3 as large.
    assert copies.scale[0] == pytest.approx(0.75, rel=0.01)
    assert copies.shift_y_px[0] == pytest.approx(0.75 * 40.5 - 0.5, abs=1.5)
    assert copies.shift_x_px[0] == pytest.approx(0.75 * -49.5 - 0.5, abs=1.5)
    assert 0.3 < copies.agreement[0] <= 1


def test_the_same_field_with_other_pixels_is_whole(field):
    image = field[:500, :600]
    copies = search([image, resize(image, (250, 300))])
    assert (copies.row.tolist(), copies.is_whole.tolist()) == ([1], [True])
    assert copies.scale[0] == pytest.approx(0.5, rel=0.005)


def test_the_earliest_of_several_is_the_original(field):
    images = [field[:500, :500], resize(field[:500, :500], (400, 400)), resize(field[:500, :500], (300, 300))]
    assert search(images).original.tolist() == [0, 0]


@pytest.mark.parametrize("seed", range(4))
def test_areas_of_one_lattice_are_no_copies(seed):
    lattice = draw_lattice(np.random.default_rng(seed), (900, 900)).image.astype(np.float32)
    lattice /= lattice.max()
    tiles = [lattice[y : y + 400, x : x + 400] for y in (0, 450) for x in (0, 450)]
    assert not len(search(tiles).row)


def is_same_frame(image, other) -> bool:
    """Whether the landmarks of two images of one shape are at the same places."""
    packed = np.frombuffer(compute_landmarks(image) + compute_landmarks(other), np.uint8).reshape(2, LANDMARKS_BYTES)
    heights_px, widths_px = np.array([image.shape, other.shape]).T
    arguments = (np.array([0]), np.array([1]), heights_px, widths_px, packed.__getitem__)
    return bool(landmark_search.find_same_frames(*arguments)[0])


def test_a_frame_saved_again_has_its_landmarks_at_their_places(field):
    image = field[:400, :400]
    coded = cv2.imencode(".jpg", np.rint(255 * image).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 60])[1]
    assert is_same_frame(image, cv2.imdecode(coded, cv2.IMREAD_UNCHANGED).astype(np.float32) ** 0.8)
    assert not is_same_frame(image, field[400:800, 400:800])
    assert is_same_frame(np.zeros((400, 400), np.float32), image)  # without landmarks nothing speaks against it


@pytest.mark.parametrize("seed", range(4))
def test_areas_of_one_lattice_are_not_the_same_frame(seed):
    image = draw_lattice(np.random.default_rng(seed), (900, 900), cell="SrTiO3 [001]", nm_per_pixel=0.03).image
    assert not is_same_frame(image[:440, :440].astype(np.float32), image[455:895, 450:890].astype(np.float32))


def test_a_corner_that_overlaps_is_no_copy(field):
    assert not len(search([field[:500, :500], field[350:850, 350:850]]).row)


def test_images_without_detail_are_no_copies():
    assert not len(search([np.zeros((300, 300), np.float32), np.ones((300, 300), np.float32)]).row)
    assert not len(search([np.zeros((4, 4), np.float32)]).row)
    assert not len(search([np.zeros((300, 300), np.float32)])[0])


def test_several_passes_list_the_same_copies(field, monkeypatch):
    images = [field[y : y + 400, x : x + 400] for y in (0, 60, 600) for x in (0, 60, 600)]
    expected = search(images)
    assert len(expected.row)
    monkeypatch.setattr(landmark_search, "BLOCK", 2)
    monkeypatch.setattr(landmark_search, "BLOCKS_PER_PASS", 1)
    for column, values in zip(search(images), expected, strict=True):
        np.testing.assert_array_equal(column, values)


def test_groups_have_all_that_repeat_one_another():
    # 2 repeats 0 and 5 repeats 2; 4 repeats 1; 3 repeats none.
    original = np.array([0, 1, 0, 3, 4, 5], np.int32)
    members, groups = list_group_members(original, np.array([4, 5]), np.array([1, 2]))
    assert members.tolist() == [0, 2, 5, 1, 4]
    assert groups.tolist() == [0, 0, 0, 1, 1]
