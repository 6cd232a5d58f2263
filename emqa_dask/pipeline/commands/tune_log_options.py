"""Options of emqa tune log, with their checks."""

from dataclasses import dataclass

from emqa_dask.number_ranges import check_integer, check_number, check_seed
from emqa_dask.tune import lattice, rewards, search
from emqa_dask.tune.lattice import LatticePhysics

# Crowding counts 41 % of randomly placed objects as crowded, so it serves lattices only; without a lattice the image
# itself has to confirm the objects.
LATTICE_REWARDS = ("count_error", "crowding")
DENSITY_REWARDS = ("count_error", "doubtful_count")
IMAGE_REWARDS = ("doubtful_count",)
REFERENCE_REWARDS = ("disagreement",)


@dataclass(frozen=True)
class TuneOptions:
    """Options of emqa tune log, by their names on the command line."""

    lattice: str = ""  # TOML file, see tune.lattice
    count_per_um2: float | None = None  # expected density, where there is no lattice
    nm_per_pixel: float | None = None  # of all micrographs; None: as their headers say
    reference: str = ""  # a detector of the workspace, or a file of labels, for the reward disagreement
    rewards: tuple[str, ...] = ()
    evaluations: int = 48
    seed: int = 0
    method: str = "bayes"
    baselines: bool = False  # the other two methods as well, to compare with
    choose: str = "euclidean"  # distance to the ideal point
    images: int = 6  # micrographs of each group
    cohorts: tuple[str, ...] = ()  # patterns on the URI; none: groups by instrument x magnification x folder
    batch: int = 4  # settings that are evaluated together
    windows: int | None = None  # side, px, of windows that are tuned by themselves, about

    def check(self) -> None:
        """Raises ValueError for a number out of its range, an unreadable lattice and an unknown reward."""
        check_integer("--evaluations", self.evaluations, 1)
        check_integer("--images", self.images, 1)
        check_seed("--seed", self.seed)
        for name in ("count_per_um2", "nm_per_pixel"):
            if getattr(self, name) is not None:
                check_number(f"--{name.replace('_', '-')}: {name}", getattr(self, name), 0)
        if self.windows is not None:
            check_integer("--windows", self.windows, 1)
        self.read_physics()
        self.select_rewards()

    def read_physics(self) -> LatticePhysics | None:
        """Known physics of the objects, or None; ValueError where both a lattice and a density are given."""
        if self.lattice and self.count_per_um2 is not None:
            raise ValueError("--lattice and --count-per-um2 exclude each other: a lattice says the density, too")
        if self.lattice:
            return lattice.read_lattice(self.lattice)
        return None if self.count_per_um2 is None else lattice.make_density_physics(self.count_per_um2)

    def select_rewards(self) -> tuple[str, ...]:
        """Names of the rewards; ValueError for those that do not exist or lack a reference."""
        names = self.rewards or self._choose_default_rewards()
        for name in names:
            rewards.load_reward(name)
            if name in REFERENCE_REWARDS and not self.reference:
                raise ValueError(f"--reward {name}: give --reference, a detector of the workspace or a file of labels")
        return tuple(names)

    def _choose_default_rewards(self) -> tuple[str, ...]:
        if self.reference:
            return REFERENCE_REWARDS
        if self.lattice:
            return LATTICE_REWARDS
        return IMAGE_REWARDS if self.count_per_um2 is None else DENSITY_REWARDS

    def select_methods(self) -> list[str]:
        """The search method and, for baselines, the other methods."""
        other_methods = [method for method in search.METHODS if method != self.method]
        return [self.method, *(other_methods if self.baselines else [])]
