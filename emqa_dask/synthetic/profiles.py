"""Profiles: which family of micrographs an archive is made of, and one draw from it."""

import numpy as np

from emqa_dask.synthetic import camera, cavities, hrtem, lattices, particles, textures
from emqa_dask.synthetic.sample import Sample, draw_log_uniform

# Profile -> families with their share. `demo` is what `emqa synthesise` and `make demo` write: mixed, with every fault.
FAMILIES = {
    "cavity-tem": cavities.draw_cavities,
    "nanoparticle-tem": particles.draw_particles,
    "atomic-stem": lattices.draw_lattice,
    "sem-texture": textures.draw_texture,
    "hrtem-particles": hrtem.draw_hrtem_particles,
}
FOIL = "foil"  # one specimen: an archive of it has one session, and the same density in all images
PROFILES = {
    **{name: {name: 1.0} for name in FAMILIES},
    "mixed": {"cavity-tem": 0.4, "nanoparticle-tem": 0.3, "atomic-stem": 0.15, "sem-texture": 0.15},
    "demo": {"cavity-tem": 0.5, "nanoparticle-tem": 0.3, "atomic-stem": 0.1, "sem-texture": 0.1},
    FOIL: {"cavity-tem": 1.0},
}
CLEAR_CONTRAST = {"cavity-tem": (0.3, 1.1), "nanoparticle-tem": (0.6, 3.0)}
UNEXPOSED = ("hrtem-particles",)  # families that draw the dose per area, not per pixel
SHAPES = ((384, 384), (512, 512), (666, 666), (640, 480), (708, 708), (768, 1024), (1024, 1024))
SHAPE_SHARES = (0.08, 0.42, 0.06, 0.06, 0.06, 0.08, 0.24)


def make_sample(
    profile: str, rng: np.random.Generator, shape: tuple[int, int] | None = None, *, clear: bool = False, **choices
) -> Sample:
    """One micrograph of `profile` (a key of `PROFILES`); `shape` None draws one of 384 to 1024 px.

    `clear` keeps dose and contrast to what an operator would have kept: no hopeless images. `choices` go to the
    family's `make`, so only a profile of one family takes them. Raises ValueError for an unknown profile
    and for sides below 16 px.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile {profile!r} is not one of {', '.join(PROFILES)}")
    if shape is not None and min(shape) < 16:
        raise ValueError(f"shape {tuple(shape)}: micrographs are drawn from 16 px a side")
    family_weights = PROFILES[profile]
    micrograph_family = str(rng.choice(list(family_weights), p=list(family_weights.values())))
    default_shape = SHAPES[int(rng.choice(len(SHAPES), p=SHAPE_SHARES))]
    if clear and micrograph_family not in UNEXPOSED:
        choices = {"exposure": camera.draw_settings(rng, low_dose=150)} | choices
        if micrograph_family in CLEAR_CONTRAST:
            choices = {"contrast": draw_log_uniform(rng, *CLEAR_CONTRAST[micrograph_family])} | choices
    return FAMILIES[micrograph_family](rng, shape or default_shape, **choices)
