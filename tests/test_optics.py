"""Contrast transfer: equal to abTEM's, and the laws of the aberrations' phase."""

import numpy as np
import pytest

from emqa_dask import contrast_transfer
from emqa_dask.optics import aberration_phase, compute_wavelength

# Written once by abTEM 1.0.11 (pip install abtem), all at q = 1, 2.5 and 5 / nm, in its units of eV and Angstrom:
# ctf = abtem.CTF(energy=1e3 kV, C10=10 df, C30=1e7 Cs, focal_spread=10 delta, semiangle_cutoff=np.inf)
# -ctf._evaluate_from_angular_grid(0.1 q[None] * ctf.wavelength, np.zeros((1, 3))).imag
ABTEM = {  # kV, df nm, Cs mm, delta nm
    (300, -10.0, -0.01, 1.0): [-0.06192968603105569, -0.3811973329666636, -0.992779829839877],
    (80, 25.0, 1.2, 3.0): [0.4484316190844185, 0.8898523767859341, -0.21027142290060097],
    (200, -600.0, 2.7, 0.0): [0.9986511289172582, -0.9738830886679231, -0.8261947553238449],
    (300, 0.0, 0.5, 5.0): [0.005991759896137557, 0.22982138199267665, -0.48923234197978693],
}


@pytest.mark.parametrize("condition", ABTEM)
def test_the_transfer_is_that_of_abtem(condition):
    kv, defocus, cs, spread = condition
    ours = contrast_transfer([1.0, 2.5, 5.0], defocus, cs, kv, spread)
    np.testing.assert_allclose(ours, ABTEM[condition], rtol=0, atol=1e-6)


def test_the_transfer_is_that_of_an_installed_abtem():
    abtem = pytest.importorskip("abtem", reason="abTEM is not installed (pip install abtem)")
    q = np.linspace(0, 10, 101)
    for kv, defocus, cs, spread in [(60, 30.0, -0.005, 2.0), (300, -80.0, 1.3, 4.0)]:
        ctf = abtem.CTF(
            energy=kv * 1e3, C10=defocus * 10, C30=cs * 1e7, focal_spread=spread * 10, semiangle_cutoff=np.inf
        )
        theirs = -ctf._evaluate_from_angular_grid(0.1 * q[None] * ctf.wavelength, np.zeros((1, len(q)))).imag[0]
        ours = contrast_transfer(q, defocus, cs, kv, spread)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


def test_the_wavelength_is_the_textbook_one():
    assert compute_wavelength(300) == pytest.approx(0.00196876, abs=2e-8)
    assert compute_wavelength([80, 200]) == pytest.approx([0.00417572, 0.00250793], rel=1e-5)


def test_defocus_sign_is_contrast_sign_without_spherical_aberration():
    q = np.linspace(0, 5, 50)
    over, under = (contrast_transfer(q, defocus, 0, 200, 3) for defocus in (40, -40))
    np.testing.assert_array_equal(over, -under)
    assert np.all(contrast_transfer(q[1:8], 40, 0, 200) > 0)


def test_the_envelope_only_damps_and_more_with_more_spread():
    q = np.linspace(0.1, 8, 60)
    damped = np.abs(contrast_transfer(q, -50, 1.2, 200, [[0], [2], [4]]))
    assert np.all(np.diff(damped, axis=0) <= 0)
    assert damped[2, -1] < 0.4 * damped[0, -1]


def test_arguments_broadcast_and_scalars_stay_scalars():
    assert contrast_transfer(np.ones(3), np.zeros((4, 1)), 1.2, 200).shape == (4, 3)
    assert np.ndim(contrast_transfer(1.0, 10, 1.2, 200)) == 0
    assert np.isnan(contrast_transfer(1.0, np.nan, 1.2, 200))


def test_scherzer_defocus_is_where_the_phase_is_flat():
    cs = 1.2
    kv = 200
    defocus = -np.sqrt(cs * 1e6 * compute_wavelength(kv))  # chi has its minimum, -pi/2, at (1 / (Cs lambda^3))^(1/4)
    q = (1 / (cs * 1e6 * compute_wavelength(kv) ** 3)) ** 0.25
    around = aberration_phase(q * np.array([0.99, 1.0, 1.01]), defocus, cs, kv)
    assert around[1] == pytest.approx(-np.pi / 2)
    assert around[1] < min(around[0], around[2])


def test_impossible_conditions_are_refused_by_name():
    with pytest.raises(ValueError, match="voltage_kv 0"):
        contrast_transfer(1.0, 10, 1.2, 0)
    with pytest.raises(ValueError, match="focal_spread_nm -1"):
        contrast_transfer(1.0, 10, 1.2, 200, -1)
