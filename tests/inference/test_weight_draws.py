"""Draws of weights: put in place, thinned, refused where they do not fit together."""

import pytest
import torch

from latentroute.inference import WeightDraws


def make(n_chains=2, n_draws=10):
    w, b = torch.zeros(3), torch.zeros(())
    generator = torch.Generator().manual_seed(0)
    values = (
        torch.randn(n_chains, n_draws, 3, generator=generator),
        torch.randn(n_chains, n_draws, generator=generator),
    )
    lp = torch.arange(n_chains * n_draws).reshape(n_chains, n_draws)
    return WeightDraws((w, b), ("w", "b"), values, {"lp": lp})


def test_one_draw_stands_in_the_weights_place():
    draws = make()
    (w, b), (values, levels) = draws.parameters, draws.values
    with draws.at(1, 7):
        assert torch.equal(w, values[1, 7]) and torch.equal(b, levels[1, 7])
    assert not w.any() and not b.any()


@pytest.mark.parametrize(
    ("n", "kept"), [(10, range(10)), (99, range(10)), (5, [1, 3, 5, 7, 9]), (1, [9]),
                    (3, [2, 5, 9]), (4, [1, 4, 6, 9])]
)  # fmt: skip
def test_thinning_is_even_and_keeps_the_last(n, kept):
    draws = make()
    thin = draws.thin(n)
    assert (thin.n_chains, thin.n_draws) == (2, len(kept))
    for one, other in zip(thin.values, draws.values, strict=True):
        assert torch.equal(one, other[:, list(kept)])
    assert torch.equal(thin.stats["lp"], draws.stats["lp"][:, list(kept)])
    assert thin.names == draws.names and thin.parameters is draws.parameters


def test_what_does_not_fit_together_is_refused():
    w = torch.zeros(3)
    with pytest.raises(ValueError, match="as many, at least one, got 0, 0 and 0"):
        WeightDraws((), (), ())
    with pytest.raises(ValueError, match="as many, at least one, got 1, 2 and 1"):
        WeightDraws((w,), ("w", "b"), (torch.zeros(1, 2, 3),))
    with pytest.raises(ValueError, match=r"w must have shape \(1, 2, 3\)"):
        WeightDraws((w,), ("w",), (torch.zeros(1, 2, 4),))
    with pytest.raises(ValueError, match=r"lp must have shape \(1, 2\)"):
        WeightDraws((w,), ("w",), (torch.zeros(1, 2, 3),), {"lp": torch.zeros(2, 1)})
    with pytest.raises(ValueError, match="n_draws must be a whole number >= 1"):
        make().thin(0)
