"""Runs as chains: a permuted copy of a run is found out and put right."""

import itertools
import json

import numpy as np
import pytest
import xarray as xr

from latentroute.analysis import chains, load, save, summary
from latentroute.analysis.chains import join_chains, match_chains, match_draws
from latentroute.analysis.matching import one_hot
from tests.analysis.relabelling import permuted


def module_variables(tree):
    return {
        f"{node.path}/{name}": values
        for node in tree.subtree
        for name, values in node.data_vars.items()
        if "module" in values.dims or name == "route"
    }


@pytest.fixture
def run(run_tree):
    return run_tree(n_choices=(4, 3, 4), draws=6, concentration=0.6)


@pytest.mark.parametrize("seed", range(5))
def test_matching_is_exact_on_permuted_copies(run, seed):
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(m).tolist() for m in (4, 3, 4)]
    orders[1] += [3]  # the padding of a site with three choices
    joined = join_chains([run, permuted(run, orders)])
    found = joined["routing/permutation"].values
    assert (found[0] == np.arange(4)).all()
    np.testing.assert_array_equal(found[1], np.argsort(orders, axis=-1))
    for name, values in module_variables(joined).items():
        if "chain" in values.dims and not name.endswith("permutation"):
            np.testing.assert_array_equal(
                values.isel(chain=0), values.isel(chain=1), err_msg=name
            )
    for name in ("route_probs", "router_probs"):
        np.testing.assert_allclose(
            joined[f"routing/{name}"], run[f"routing/{name}"], rtol=1e-6
        )
        assert joined[f"routing/{name}"].dims == ("obs", "site", "module")


def test_without_matching_the_copies_differ(run, monkeypatch):
    """The control: the tests above see labels that are left as they are."""
    orders = [[1, 0, 2, 3], [2, 0, 1, 3], [3, 2, 1, 0]]
    unmatched = np.tile(np.arange(4), (3, 1))
    monkeypatch.setattr(chains, "match_layers", lambda *_: unmatched)
    joined = join_chains([run, permuted(run, orders)])
    share = joined["usage/share"].values
    assert abs(share[0] - share[1]).max() > 0.1
    assert abs(joined["routing/route_probs"] - run["routing/route_probs"]).max() > 0.1


def test_a_brute_force_over_all_assignments_finds_no_better(run_tree):
    runs = [run_tree(n_choices=(4, 4), seed=s, concentration=1.0) for s in (0, 1)]
    runs[1]["observed_data"] = runs[0]["observed_data"].copy()
    runs[1]["constant_data"] = runs[0]["constant_data"].copy()
    joined = join_chains(runs)
    p, q = (r["routing/route_probs"].values.astype(float) for r in runs)
    for site in range(2):
        label = joined["routing/permutation"].values[1, site]
        best = max(
            sum((p[:, site, order[m]] * q[:, site, m]).sum() for m in range(4))
            for order in itertools.permutations(range(4))
        )
        got = sum((p[:, site, label[m]] * q[:, site, m]).sum() for m in range(4))
        assert got == pytest.approx(best, rel=1e-12)


def test_slots_of_a_layer_share_one_permutation(run_tree):
    run = run_tree(n_choices=(4, 4, 4, 4), concentration=0.6)
    names = ["route_0_0", "route_0_1", "route_1_0", "route_1_1"]
    run = run.map_over_datasets(
        lambda group: group.assign_coords(site=names) if "site" in group.dims else group
    )
    first, second = [2, 0, 3, 1], [1, 2, 3, 0]
    joined = join_chains([run, permuted(run, [first, first, second, second])])
    found = joined["routing/permutation"].values[1]
    assert (found[:2] == np.argsort(first)).all()
    assert (found[2:] == np.argsort(second)).all()
    # were slots matched apart, these contradictory orders would both be undone
    torn = join_chains([run, permuted(run, [first, second, second, second])])
    found = torn["routing/permutation"].values[1]
    assert (found[0] == found[1]).all()


def test_sites_that_share_modules_are_named(run):
    names = [str(site) for site in run["routing/site"].values]
    together = [[names[0], names[2]]]
    order = [3, 0, 2, 1]
    other = permuted(run, [order, [0, 1, 2, 3], order])
    joined = join_chains([run, other], layers=together)
    assert (joined["routing/permutation"].values[1, [0, 2]] == np.argsort(order)).all()
    with pytest.raises(ValueError, match=r"with \[4, 3\] choices, expected as many"):
        join_chains([run, other], layers=[names[:2]])
    with pytest.raises(ValueError, match="expected each site at most once"):
        join_chains([run, other], layers=[["nowhere"]])


def test_a_reference_names_the_modules(run_tree):
    run = run_tree(n_choices=(3, 3), concentration=0.2)
    truth = run["routing/route_probs"].values.argmax(-1)
    order = [[2, 0, 1], [1, 2, 0]]
    joined = join_chains([permuted(run, order)], reference=one_hot(truth, 3))
    np.testing.assert_array_equal(
        joined["routing/permutation"].values[0], np.argsort(order, axis=-1)
    )
    with pytest.raises(ValueError, match=r"reference: got shape \(60, 2\), expected"):
        join_chains([run], reference=truth)


def test_matching_twice_keeps_what_the_runs_called_their_modules(run):
    orders = [[1, 2, 3, 0], [0, 2, 1, 3], [0, 1, 3, 2]]
    joined = join_chains([run, permuted(run, orders)])
    truth = one_hot(
        np.array(orders).T[run["routing/route_probs"].values.argmax(-1), 0], 4
    )
    again = match_chains(joined, reference=np.repeat(truth[:, :1], 3, axis=1))
    share = again["usage/share"].values
    own = [run["usage/share"].values[0], permuted(run, orders)["usage/share"].values[0]]
    permutation = again["routing/permutation"].values
    for chain, site, module in itertools.product(range(2), range(3), range(4)):
        np.testing.assert_array_equal(
            share[chain, :, site, permutation[chain, site, module]],
            own[chain][:, site, module],
        )
    assert match_chains(again).identical(match_chains(match_chains(again)))


def test_what_has_no_labels_is_put_end_to_end(run_tree):
    runs = [run_tree(seed=0, attrs={"seed": s, "wall_time": 2.0}) for s in (3, 5)]
    runs[1]["log_likelihood/y"].values[:] -= 1
    runs[1]["predictive_probs/y"].values[:] = 0.25
    joined = join_chains(runs)
    assert joined["log_likelihood"].sizes["chain"] == 2
    gap = joined["log_likelihood/y"].isel(chain=0) - joined["log_likelihood/y"].isel(
        chain=1
    )
    np.testing.assert_allclose(gap, 1, rtol=1e-5)
    np.testing.assert_allclose(
        joined["predictive_probs/y"],
        runs[0]["predictive_probs/y"] / 2 + 0.125,
        rtol=1e-5,
    )
    assert joined["training/loss"].sizes["chain"] == 2
    assert (
        joined["observed_data"]
        .to_dataset()
        .identical(runs[0]["observed_data"].to_dataset())
    )
    assert json.loads(joined.attrs["seeds"]) == [3, 5]
    assert joined.attrs["wall_time"] == 4.0
    assert "seed" not in joined.attrs
    assert joined.attrs["method"] == "exact"


def test_what_runs_do_not_say_their_chains_do_not_either(run_tree):
    trees = [run_tree() for _ in range(2)]
    for tree in trees:
        tree.attrs = {"method": "exact"}
    joined = join_chains(trees)
    assert not {"seed", "seeds", "wall_time"} & set(joined.attrs)
    assert np.isnan(summary(joined).loc["exact", "seconds"])


def test_trainings_may_be_of_other_lengths(run_tree):
    short = run_tree()
    short["training"] = xr.DataTree(short["training"].to_dataset().isel(step=slice(20)))
    joined = join_chains([run_tree(), short])
    loss = joined["training/loss"]
    assert loss.sizes["step"] == 40
    assert int(loss.isnull().sum()) == 20


def test_a_joined_tree_is_a_run_and_comes_back_from_disk(run, tmp_path):
    joined = join_chains(
        [run, permuted(run, [[1, 0, 2, 3], [0, 1, 2, 3], [3, 1, 2, 0]])]
    )
    assert load(save(joined, tmp_path / "joined.nc")).identical(joined)
    names = ["log_lik", "accuracy", "h_a", "h_b", "dead"]
    np.testing.assert_allclose(summary(joined)[names], summary(run)[names], rtol=1e-5)
    more = join_chains([joined, run])
    assert more["posterior"].sizes["chain"] == 3
    np.testing.assert_array_equal(
        more["routing/permutation"].values[:2], joined["routing/permutation"].values
    )


def test_other_data_draws_or_sites_are_refused(run, run_tree):
    with pytest.raises(ValueError, match="at least one run, got none"):
        join_chains([])
    with pytest.raises(ValueError, match="run 1: got another 'routing'"):
        join_chains([run, run_tree(n_choices=(4, 4, 4), draws=6)])
    with pytest.raises(ValueError, match="run 1: got another 'observed_data'"):
        join_chains([run, run_tree(n_choices=(4, 3, 4), draws=6, seed=1)])
    fewer = run.copy(deep=True)
    for group in ("posterior", "log_likelihood", "usage", "posterior_predictive"):
        fewer[group] = xr.DataTree(fewer[group].to_dataset().isel(draw=slice(4)))
    with pytest.raises(ValueError, match="run 1: got 4 draws, expected 6"):
        join_chains([run, fewer])
    with pytest.raises(ValueError, match="a run that failed has none"):
        join_chains([run, xr.DataTree()])


def test_other_methods_are_no_chains(run):
    other = run.copy(deep=True)
    other.attrs["method"] = "hard-em"
    with pytest.raises(ValueError, match="the method 'hard-em', expected that of"):
        join_chains([run, other])
    comparison = xr.DataTree.from_dict({"exact/seed_0": run})
    with pytest.raises(TypeError, match="got a DataTree, expected a list of runs"):
        join_chains(comparison)
    with pytest.raises(ValueError, match=r"a run has it: tree\['method/seed_0'\]"):
        match_chains(comparison)


def in_two_chains(run, other):
    """A run whose second chain is another's, with their means alone in `routing`."""
    out = run.copy(deep=True)
    for group in ("posterior", "usage", "log_likelihood", "sample_stats"):
        both = [run[group].to_dataset(), other[group].to_dataset()]
        out[group] = xr.DataTree(xr.concat(both, "chain").assign_coords(chain=range(2)))
    for name in ("route_probs", "router_probs"):
        mean = (run[f"routing/{name}"].values + other[f"routing/{name}"].values) / 2
        out[f"routing/{name}"].values[:] = mean
    return out


def test_chains_of_which_only_the_mean_is_known(run_tree):
    run = run_tree(n_choices=(3, 3), draws=8, concentration=0.2)
    order = [[1, 2, 0], [0, 2, 1]]
    matched = match_chains(in_two_chains(run, permuted(run, order)))
    found = matched["routing/permutation"].values
    np.testing.assert_array_equal(found[1], np.argsort(order, axis=-1))
    route = run["posterior/route"].values[0]
    for m in range(3):
        np.testing.assert_allclose(
            matched["routing/route_probs"].values[..., m], (route == m).mean(0)
        )
    assert "router_probs" not in matched["routing"]
    assert np.isnan(summary(matched).loc["exact", "h_a"])


def test_a_mean_of_chains_that_agreed_stays(run):
    two = in_two_chains(run, run)
    matched = match_chains(two)
    np.testing.assert_array_equal(
        matched["routing/router_probs"], two["routing/router_probs"]
    )


def test_labels_that_switch_within_a_chain(run_tree):
    run = run_tree(n_choices=(3, 3), draws=8, concentration=0.2)
    steady = run["posterior/route"].values.copy()
    order = np.array([1, 2, 0])
    run["posterior/route"].values[0, 4:, :, 1] = order[steady[0, 4:, :, 1]]
    for m in range(3):
        share = (run["posterior/route"].values == m).mean(2)
        run["usage/share"].values[..., m] = share
    run["sample_stats/lp"].values[0, 2] += 1  # the pivot: before the switch
    matched = match_draws(run)
    np.testing.assert_array_equal(matched["posterior/route"].values, steady)
    permutation = matched["routing/permutation"]
    assert permutation.dims == ("chain", "draw", "site", "module")
    assert (permutation.values[0, :, 0] == np.arange(3)).all()
    assert (permutation.values[0, :4] == np.arange(3)).all()
    assert (permutation.values[0, 4:, 1] == np.argsort(order)).all()
    for m in range(3):
        np.testing.assert_allclose(
            matched["usage/share"].values[..., m], (steady == m).mean(2)
        )
        np.testing.assert_allclose(
            matched["routing/route_probs"].values[..., m], (steady[0] == m).mean(0)
        )
    assert "router_probs" not in matched["routing"]


def test_the_trees_that_came_in_stay_as_they_were(run):
    other = permuted(run, [[1, 0, 2, 3], [0, 1, 2, 3], [3, 1, 2, 0]])
    before = run.copy(deep=True), other.copy(deep=True)
    joined = join_chains([run, other])
    match_chains(joined)
    match_draws(run)
    assert run.identical(before[0])
    assert other.identical(before[1])
