"""The path of a partition on a device: one upload of each image, nothing converted implicitly, the tables of a CPU."""

import numpy as np
import pytest
import tifffile

from emqa_dask.backend import DeviceLost
from emqa_dask.detect import mask_rcnn
from emqa_dask.featurise import images as image_features
from emqa_dask.partition import Partition
from emqa_dask.pipeline.commands.make_tables import TASK_COLUMNS
from emqa_dask.pipeline.commands.triage import run
from emqa_dask.pipeline.tasks import device_step, image_measurement
from emqa_dask.pipeline.tasks.image_stages import ImageStages
from emqa_dask.pipeline.tasks.measure_images import measure_partition
from emqa_dask.pipeline.workspace.micrograph_ledger import iter_partitions
from emqa_dask.run.supervise import CallFailed, Supervised, call_directly
from emqa_dask.settings import Settings, replace
from emqa_dask.store.layout import Workspace
from emqa_dask.synthetic.films import draw_amorphous_film
from emqa_dask.tables import THON_RINGS
from tests.detect.strict_arrays import install_strict_device
from tests.detect.test_device_masks import make_detectors
from tests.detect.torch_device import Device
from tests.featurise.test_feature_batches import assert_equal_features

TABLES = ("thumbnails", "detections", "evidence", "features")
SHAPE = (300, 340)
N_IMAGES = 3


def draw_image(seed: int) -> np.ndarray:
    """Disks on an amorphous film, (300, 340) uint16."""
    rng = np.random.default_rng(seed)
    film = draw_amorphous_film(rng, SHAPE, nm_per_pixel=0.1, defocus_nm=700, voltage_kv=200)
    image = 20_000 + 2000 * (film - film.mean()) / film.std()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for row, column in rng.uniform(30, 270, (6, 2)):
        image[(y - row) ** 2 + (x - column) ** 2 < 12**2] += 15_000
    return image.astype(np.uint16)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A workspace with one partition, and its rows; the optics are known."""
    folder = tmp_path_factory.mktemp("device")
    (folder / "archive").mkdir()
    for seed in range(N_IMAGES):
        tifffile.imwrite(folder / "archive" / f"{seed}.tif", draw_image(seed))
    settings = make_settings("cpu")
    run(str(folder / "archive"), str(folder / "workspace"), settings, say=lambda text: None)
    workspace = Workspace(str(folder / "workspace"))
    ((partition, rows),) = iter_partitions(workspace, TASK_COLUMNS)
    return workspace, partition, rows.assign(nm_per_pixel=0.1, nm_per_pixel_y=0.1, voltage_kv=200.0)


def make_settings(device: str, detectors: tuple[str, ...] = ("log",)) -> Settings:
    run_settings = {"scheduler": "in-process", "device": device}
    detect = {"detectors": list(detectors), "stability_scale": 0.0}
    return replace(Settings(), {"run": run_settings, "detect": detect, "store": {"shard_length": N_IMAGES}})


def measure(stored: tuple[Workspace, Partition, object], settings: Settings, call=call_directly) -> tuple[dict, dict]:
    """New rows of TABLES, and the seconds of the stages."""
    new_rows = {table: [] for table in TABLES}
    stages = ImageStages(call)
    measure_partition(*stored, settings, new_rows, stages)
    assert not any(stages.failures.values())
    return new_rows, stages.seconds


def use_device(monkeypatch):
    """Strict arrays in the place of cupy's; networks compute on the CPU, with their masks on a device of torch."""
    device = install_strict_device(monkeypatch)
    estimate_kinds = image_features.estimate_picture_kinds
    embed_kinds = image_measurement.embed_kinds
    monkeypatch.setattr(image_features, "estimate_picture_kinds", lambda views, _: estimate_kinds(views))
    monkeypatch.setattr(image_measurement, "embed_kinds", lambda image, _: embed_kinds(image, "cpu"))
    monkeypatch.setattr(mask_rcnn, "load_detector", lambda *_: make_detectors()[1])
    return device


def assert_equal_rows(found: dict, expected: dict, rings_tolerance: float = 1e-6) -> None:
    for table in TABLES:
        assert len(found[table]) == len(expected[table]) > 0
    for rows, own in zip(found["detections"], expected["detections"], strict=True):
        assert len(rows) == len(own) > 0
        # Truncated kernels differ between both paths; see tests/detect/test_log_batch.py.
        np.testing.assert_allclose(rows[["y_px", "x_px"]], own[["y_px", "x_px"]], atol=2e-2)
        assert rows["mask_rle"].equals(own["mask_rle"])
    for row, own in zip(map(dict, found["features"]), map(dict, expected["features"]), strict=True):
        assert row.pop("micrograph_id") == own.pop("micrograph_id")
        for name in ("disordered_fraction", *THON_RINGS):
            np.testing.assert_allclose(row.pop(name), own.pop(name), rtol=rings_tolerance)
        assert_equal_features(row, own)


@pytest.mark.parametrize("detectors", [("log",), ("log", "cavity-tem")])
def test_partitions_on_a_device_have_the_tables_of_a_cpu(stored, monkeypatch, detectors):
    expected, _ = measure(stored, make_settings("cpu", detectors))
    assert expected["features"][0]["defocus_nm"] == pytest.approx(700, rel=0.05)
    device = use_device(monkeypatch)
    with Device():
        found, seconds = measure(stored, make_settings("cuda", detectors))
    assert_equal_rows(found, expected)
    assert any(rows["mask_rle"].notna().any() for rows in found["detections"]) == ("cavity-tem" in detectors)
    assert device.uploads.count((N_IMAGES, *SHAPE)) == 1
    assert not [shape for shape in device.uploads if shape[-2:] == SHAPE and shape != (N_IMAGES, *SHAPE)]
    assert {"device", "thumbnail", "detect", "featurise"} <= set(seconds)


def test_stages_upload_by_themselves_where_the_shared_upload_fails(stored, monkeypatch):
    expected, _ = measure(stored, make_settings("cpu"))
    device = use_device(monkeypatch)

    def call(function, *args, **options):
        if function is device_step.compute_on_device:
            raise CallFailed("error", "one image of them fails", "")
        return function(*args)

    found, _ = measure(stored, make_settings("cuda"), call)
    assert_equal_rows(found, expected)
    assert device.uploads.count((N_IMAGES, *SHAPE)) == 3  # thumbnails, blobs, features


def test_images_of_several_kinds_have_their_own_parts(monkeypatch):
    images = [draw_image(0), draw_image(1)[:200], draw_image(2), draw_image(3).astype(np.float32)]
    images[3][40:60, 30:90] = np.nan
    work = device_step.DeviceWork(64, make_settings("cuda").detect, has_features=True, has_rings=True)
    device = install_strict_device(monkeypatch)
    parts = device_step.compute_on_device(images, work, "cuda")
    assert [shape for shape in device.uploads if len(shape) == 3 and shape[-1] == SHAPE[1]] == [
        (2, *SHAPE),
        (1, 200, SHAPE[1]),
        (1, *SHAPE),
    ]
    for image, own in zip(images, parts, strict=True):
        (alone,) = device_step.compute_on_device([image], work, "cuda")
        np.testing.assert_array_equal(own.grey, alone.grey)
        np.testing.assert_array_equal(own.candidates.maxima.response, alone.candidates.maxima.response)
        assert (own.image_parts.low, own.image_parts.span) == (alone.image_parts.low, alone.image_parts.span)
    assert [own.log_power is None for own in parts] == [False, True, False, True]  # 200 rows are few; NaN
    assert device_step.compute_on_device([], work, "cuda") == []


def test_no_part_is_computed_that_no_table_needs(monkeypatch):
    device = install_strict_device(monkeypatch)
    (parts,) = device_step.compute_on_device([draw_image(0)], device_step.DeviceWork(thumbnail_px=64), "cuda")
    assert parts.grey.shape == (56, 64)
    assert parts[1:] == (None, None, None)
    assert device.uploads[0] == (1, *SHAPE)
    row = {"nm_per_pixel": 0.1, "nm_per_pixel_y": 0.1, "voltage_kv": 200.0}
    settings = make_settings("cuda")
    plan = device_step.plan_device_work
    assert plan([row], settings, ["features"]) == device_step.DeviceWork(has_features=True, has_rings=True)
    assert plan([row | {"voltage_kv": np.nan}], settings, ["features"]) == device_step.DeviceWork(has_features=True)
    assert plan([row], settings, ["detections"]) == device_step.DeviceWork(detect=settings.detect)
    assert not any(plan([row], make_settings("cuda", ("cavity-tem",)), ["detections", "embeddings"]))


def test_a_lost_device_ends_the_task(stored, monkeypatch):
    use_device(monkeypatch)

    def lose_device(*_):
        raise DeviceLost("an illegal memory access was encountered")

    monkeypatch.setattr(device_step, "split_images", lose_device)
    with Supervised() as call, pytest.raises(DeviceLost):
        measure(stored, make_settings("cuda"), call)
