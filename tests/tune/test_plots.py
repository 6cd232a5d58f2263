"""Figures are drawn without global state, show what they should, and are written as PNG."""

import sys

import numpy as np
import pandas as pd
import pytest

from emqa_dask.tune import plots, tiles
from emqa_dask.tune.search import run_search
from emqa_dask.tune.space import SearchSpace


def trace(failing=False, width=2):
    def evaluate(settings):
        values = np.array([[s["threshold"], 0.05 / s["threshold"], s["overlap"]] for s in settings])[:, :width]
        values[[failing and s["overlap"] > 0.5 for s in settings], 0] = np.nan
        return values

    return run_search(
        evaluate, SearchSpace(), ("count", "crowding", "size")[:width], evaluations=12, seed=0, method="random"
    )


def size_of(path):
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def texts(axis):
    return " ".join(text.get_text() for text in axis.get_legend().get_texts())


@pytest.mark.parametrize("failing", [False, True])
def test_the_front_is_drawn_with_both_choices(tmp_path, failing):
    result = trace(failing)
    figure = plots.plot_pareto_front(result, ("count error", "crowding"))
    axis = figure.axes[0]
    assert axis.get_xlabel() == "count error"
    assert f"Pareto front ({result.table['is_pareto'].sum()})" in texts(axis)
    assert "Euclidean" in texts(axis)
    assert "Chebyshev" in texts(axis)
    assert ("failed" in axis.get_title()) == failing
    drawn = axis.collections[0].get_offsets()
    assert len(drawn) == np.isfinite(result.table[["count", "crowding"]]).all(axis=1).sum()
    width, height = size_of(plots.save_figure(figure, tmp_path / "front.png"))
    assert min(width, height) > 400


def test_a_front_needs_two_objectives():
    with pytest.raises(ValueError, match="count"):
        plots.plot_pareto_front(trace(width=1))


def test_medians_over_seeds_are_drawn(tmp_path):
    volumes = {"bayes": np.sort(np.random.default_rng(0).random((5, 20))), "one seed": np.linspace(0, 1, 20)}
    figure = plots.plot_hypervolume(volumes, "hypervolume (1 = ideal)")
    axis = figure.axes[0]
    np.testing.assert_allclose(axis.lines[0].get_ydata(), np.median(volumes["bayes"], axis=0))
    assert "bayes (5 seeds)" in texts(axis)
    size_of(plots.save_figure(figure, tmp_path / "volumes.png"))


@pytest.mark.parametrize("with_image", [False, True])
def test_a_map_shows_the_value_of_each_window_in_it(tmp_path, with_image):
    table = pd.DataFrame(tiles.split_image((40, 80), 40)).assign(threshold=[0.1, 0.3], overlap=[0.5, np.nan])
    image = np.random.default_rng(0).random((40, 80)) if with_image else None
    figure = plots.plot_tile_map(table, {"threshold": "threshold", "overlap": "overlap"}, image)
    painted = np.asarray(figure.axes[0].images[-1].get_array())
    assert (painted[:, :40] == 0.1).all()
    assert (painted[:, 40:] == 0.3).all()
    assert len(figure.axes[1].patches) == 1  # hatched: nothing was tuned there
    size_of(plots.save_figure(figure, tmp_path / "map.png"))


def test_figures_leave_no_state_behind():
    plots.plot_pareto_front(trace())
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()
