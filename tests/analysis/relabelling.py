"""Copies of runs whose modules have other names."""

from collections.abc import Sequence

import numpy as np
import xarray as xr


def permuted(run: xr.DataTree, orders: Sequence[Sequence[int]]) -> xr.DataTree:
    """A copy of a run whose module m of site l is called orders[l][m]."""
    out = run.copy(deep=True)
    names = ["routing/route_probs", "routing/router_probs", "usage/share"]
    for site, order in enumerate(orders):
        route = out["posterior/route"].values[..., site]
        out["posterior/route"].values[..., site] = np.asarray(order)[route]
        for name in names:
            values = out[name].values[..., site, :]
            old = values.copy()
            for was, now in enumerate(order):
                values[..., now] = old[..., was]
    return out


def redrawn(run: xr.DataTree, seed: int) -> xr.DataTree:
    """A copy of a run with routes drawn anew from its posterior by site."""
    out = run.copy(deep=True)
    cumulative = out["routing/route_probs"].values.astype(float).cumsum(-1)
    shape = out["posterior/route"].shape
    u = np.random.default_rng(seed).uniform(size=(*shape, 1))
    most = out["routing/n_choices"].values - 1
    route = np.minimum((u > cumulative).sum(-1), most)
    out["posterior/route"].values[:] = route
    for m in range(cumulative.shape[-1]):
        out["usage/share"].values[..., m] = (route == m).mean(2)
    return out
