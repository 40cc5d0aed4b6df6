"""Mode, probability and entropy of routes, by hand."""

import numpy as np
import xarray as xr

from latentroute.analysis.route_summary import drawn_modes, route_summary
from tests.analysis.relabelling import permuted


def test_by_hand(run_tree):
    run = run_tree(n=2, n_choices=(3, 2), draws=4)
    run["routing/route_probs"].values[:] = [
        [[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]],
        [[0.1, 0.9, 0.0], [0.5, 0.5, 0.0]],
    ]
    run["posterior/route"].values[0, :, 0] = [[0, 0], [1, 0], [0, 0], [2, 0]]
    run["posterior/route"].values[0, :, 1] = [[1, 1], [1, 0], [1, 1], [1, 0]]
    found = route_summary(run)
    assert found["mode"].values.tolist() == [[0, 0], [1, 0]]
    np.testing.assert_allclose(found["mode_prob"], [[0.5, 1.0], [0.9, 0.5]], rtol=1e-6)
    h = -(0.1 * np.log(0.1) + 0.9 * np.log(0.9))
    np.testing.assert_allclose(
        found["entropy"], [[1.5 * np.log(2), 0], [h, np.log(2)]], rtol=1e-6
    )
    # of two routes drawn as often, the first; not what the sites' own modes make up
    assert found["path_mode"].values.tolist() == [[0, 0], [1, 1]]
    np.testing.assert_allclose(found["path_prob"], [0.5, 0.5])
    np.testing.assert_allclose(found["path_entropy"], [1.5 * np.log(2), np.log(2)])
    assert int(found["n_draws"]) == 4
    table = found.drop_vars(["path_prob", "path_entropy", "n_draws"]).to_dataframe()
    assert list(table.index.names) == ["obs", "site"]


def test_other_labels_are_the_same_routes(run_tree):
    run = run_tree(n_choices=(4, 4), draws=9, concentration=2.0)
    order = np.array([[2, 3, 1, 0], [1, 0, 3, 2]])
    before, after = route_summary(run), route_summary(permuted(run, order))
    for name in ("mode_prob", "entropy", "path_prob", "path_entropy"):
        np.testing.assert_allclose(after[name], before[name], rtol=1e-12)
    for site in range(2):
        np.testing.assert_array_equal(
            after["path_mode"][:, site], order[site][before["path_mode"][:, site]]
        )


def test_draws_of_all_chains_count(run_tree):
    run = run_tree(n=3, draws=6)
    parts = run["posterior"].to_dataset()
    halves = parts.isel(draw=slice(3)).assign_coords(draw=range(3))
    twice = run.copy()
    later = parts.isel(draw=slice(3, 6)).assign_coords(draw=range(3))
    twice["posterior"] = xr.DataTree(
        xr.concat([halves, later], "chain").assign_coords(chain=range(2))
    )
    for a, b in zip(drawn_modes(run), drawn_modes(twice), strict=True):
        np.testing.assert_array_equal(a, b)


def test_ties_go_to_the_module_used_most_whatever_it_is_called(run_tree):
    run = run_tree(n=3, n_choices=(2,), draws=4)
    run["routing/route_probs"].values[:] = [[[0.5, 0.5]], [[0.2, 0.8]], [[0.1, 0.9]]]
    mode = route_summary(run)["mode"].values
    assert mode.tolist() == [[1], [1], [1]]
    renamed = route_summary(permuted(run, [[1, 0]]))["mode"].values
    assert (renamed == 1 - mode).all()
