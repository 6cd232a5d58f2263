"""The GPU path: refused where there is no GPU; on one, the same blobs as on the CPU."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from emqa_dask.backend import to_device, to_host
from emqa_dask.detect.log import detect_image, find_blobs
from emqa_dask.settings import Detect
from emqa_dask.synthetic.profiles import make_sample


def has_gpu() -> bool:
    try:
        to_device(np.zeros(1), "cuda")
    except RuntimeError:
        return False
    return True


@pytest.mark.skipif(has_gpu(), reason="there is a GPU here: nothing to refuse")
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_cuda_without_a_gpu_is_refused_not_replaced():
    with pytest.raises(RuntimeError, match=r"no (usable )?GPU"):
        detect_image(np.ones((32, 32), np.uint8), Detect(device="cuda"))


@pytest.mark.gpu
@pytest.mark.parametrize("profile", ["cavity-tem", "nanoparticle-tem"])
def test_the_same_blobs_on_both_devices(profile):
    image = make_sample(profile, np.random.default_rng(3), shape=(512, 512)).image.astype(np.float32)
    image /= image.max()
    asked = {"min_sigma": 2, "max_sigma": 12, "num_sigma": 6, "threshold": 0.02, "overlap": 0.5, "polarity": "both"}
    here = find_blobs(image, **asked)
    there = find_blobs(to_device(image, "cuda"), **asked)
    pd.testing.assert_frame_equal(here, there, rtol=1e-4)


@pytest.mark.gpu
def test_detections_on_the_gpu_are_those_of_the_exact_path():
    image = make_sample("cavity-tem", np.random.default_rng(4), shape=(512, 512)).image
    settings = Detect()
    cpu, gpu = detect_image(image, settings), detect_image(image, dataclasses.replace(settings, device="cuda"))
    assert abs(len(cpu) - len(gpu)) <= max(2, 0.01 * len(cpu))


@pytest.mark.gpu
def test_transfers_are_explicit_and_exact():
    image = np.random.default_rng(0).random((7, 9), np.float32)
    there = to_device(image, "cuda")
    assert type(there).__module__.startswith("cupy")
    np.testing.assert_array_equal(to_host(there), image)
