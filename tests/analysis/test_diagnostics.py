"""R-hat and effective sample sizes that do not see what modules are called."""

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from latentroute.analysis.chains import join_chains
from latentroute.analysis.diagnostics import diagnose, diagnostics
from tests.analysis.relabelling import permuted, redrawn


def rhat_by_hand(draws):
    """Vehtari et al. 2021, equations 1 to 4 and 14: the larger of bulk and folded."""
    half = draws.shape[1] // 2
    split = np.concatenate([draws[:, :half], draws[:, -half:]])

    def plain(values):
        ranks = stats.rankdata(values).reshape(values.shape)
        z = stats.norm.ppf((ranks - 3 / 8) / (values.size + 1 / 4))
        n = z.shape[1]
        within = z.var(1, ddof=1).mean()
        between = n * z.mean(1).var(ddof=1)
        return np.sqrt(((n - 1) / n * within + between / n) / within)

    folded = np.abs(split - np.median(split))
    return max(plain(split), plain(folded) if np.ptp(folded) else 0.0)


@pytest.fixture(scope="module")
def chains(run_tree):
    run = run_tree(draws=100, n_choices=(3, 2), concentration=0.6)
    return [redrawn(run, seed) for seed in range(4)]


def test_rhat_by_hand():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4, 60, 6)) + np.array([0, 0.3, 0.6, 0.9])[:, None, None]
    draws[..., 3] = draws[..., 3] > 0.2  # two values
    draws[..., 4] = np.round(draws[..., 4])
    draws[..., 5] = draws[..., 5] > np.median(draws[..., 5])  # as often as not
    found = diagnostics(draws).rhat
    expected = [rhat_by_hand(draws[..., k]) for k in range(6)]
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_chains_of_one_solution_agree(chains):
    table = diagnose(join_chains(chains))
    use = table[table.index.str.startswith("use")]
    assert list(use.index) == [
        *(f"use of route_0 = {m}" for m in range(3)),
        *(f"use of route_1 = {m}" for m in range(2)),
    ]
    assert (use["rhat"] < 1.06).all()
    assert (use["ess_bulk"] > 150).all()
    assert (table.loc[["route_0 by example", "route_1 by example"], "rhat"] < 1.1).all()
    assert table.loc["log joint", "note"] == "constant"


def test_names_of_modules_change_nothing(chains):
    before = diagnose(join_chains(chains))
    other = [chains[0], permuted(chains[1], [[2, 0, 1], [1, 0, 2]]), *chains[2:]]
    after = diagnose(join_chains(other))
    assert (after["note"] == before["note"]).all()
    for column in ("mean", "rhat", "ess_bulk", "ess_tail"):
        np.testing.assert_array_equal(after[column], before[column])


def test_unmatched_labels_would_have_looked_like_disagreement(chains):
    """The control: were labels not matched, or codes averaged, R-hat would be wrong."""
    other = [chains[0], permuted(chains[1], [[2, 0, 1], [1, 0, 2]]), *chains[2:]]
    share = np.concatenate([run["usage/share"].values for run in other])
    assert rhat_by_hand(share[:, :, 0, 0]) > 1.3
    codes = np.concatenate([run["posterior/route"].values for run in other])
    assert rhat_by_hand(codes[:, :, :, 0].mean(2)) > 1.3


def test_another_solution_is_seen(chains, run_tree):
    other = run_tree(draws=100, n_choices=(3, 2), concentration=0.6, seed=1)
    for group in ("observed_data", "constant_data"):
        other[group] = chains[0][group].copy()
    table = diagnose(join_chains([chains[0], redrawn(other, 9)]))
    assert table.loc["route_0 by example", "rhat"] > 1.3
    assert table.loc["log joint", "rhat"] == np.inf
    assert table.loc["log joint", "note"] == "stuck"


def test_an_unused_module_is_no_warning(chains):
    runs = [run.copy(deep=True) for run in chains[:2]]
    for run in runs:
        run["posterior/route"].values[..., 1] = 1
        run["usage/share"].values[..., 1, :] = [0, 1, 0]
        run["routing/route_probs"].values[:, 1] = [0, 1, 0]
    table = diagnose(join_chains(runs))
    assert table.loc["use of route_1 = 0", "note"] == "unused"
    assert table.loc["use of route_1 = 1", "note"] == "constant"
    assert table.loc["route_1 by example", "note"] == "settled"
    nothing = ["use of route_1 = 0", "use of route_1 = 1", "route_1 by example"]
    assert table.loc[nothing, ["rhat", "ess_bulk"]].isna().all(axis=None)


def test_what_does_not_move():
    draws = np.zeros((2, 10, 4))
    draws[1, :, 1] = 1  # each chain at a place of its own
    draws[:, 5:, 2] = 1  # both move once, between the halves
    draws[0, 3, 3] = np.nan
    found = diagnostics(draws, unmoved="here")
    np.testing.assert_array_equal(found.rhat, [np.nan, np.inf, np.inf, np.nan])
    np.testing.assert_array_equal(found.ess_bulk, [np.nan, 2, 2, np.nan])
    assert found.note == ["here", "stuck", "stuck", "not finite"]


def test_one_chain_has_no_rhat(chains):
    table = diagnose(chains[0])
    assert table["rhat"].isna().all()
    use = table.loc["use of route_0 = 0"]
    assert use["note"] == "one chain"
    assert 50 < use["ess_bulk"] < 200


def test_by_example_by_hand(chains):
    joined = join_chains(chains[:2])
    table = diagnose(joined, examples=7)
    route = joined["posterior/route"].values[:, :, :, 0]
    kept = np.linspace(0, 59, 7).astype(int)
    worst = []
    for n in kept:
        indicators = [(route[:, :, n] == m).astype(float) for m in range(3)]
        moving = [rhat_by_hand(x) for x in indicators if np.ptp(x) > 0]
        worst.append(max(moving, default=1.0))
    got = table.loc["route_0 by example", "rhat"]
    assert got == pytest.approx(np.quantile(worst, 0.95, method="higher"), rel=1e-9)


def test_the_log_joint_of_chains_that_move(chains):
    runs = [run.copy(deep=True) for run in chains]
    lp = np.random.default_rng(0).normal(size=(4, 100))
    for run, values in zip(runs, lp, strict=True):
        run["sample_stats/lp"].values[0] = values
    row = diagnose(join_chains(runs)).loc["log joint"]
    assert row["rhat"] == pytest.approx(rhat_by_hand(lp))
    assert row["note"] == ""


def test_too_few_draws(run_tree):
    with pytest.raises(ValueError, match="got 3 draws a chain, expected at least 4"):
        diagnose(run_tree(draws=3))


def test_a_tree_of_something_else():
    with pytest.raises(ValueError, match="expected 'routing' among them"):
        diagnose(xr.DataTree())
