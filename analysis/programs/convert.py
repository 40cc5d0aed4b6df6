"""Any Pyro program and what was inferred of it, as an ArviZ DataTree."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...inference.pareto import pareto_k
from ...inference.random import RandomStream
from ...models.checks import check_count
from ..arrays import to_numpy
from ..datatree import root_attrs, version
from ..drawn_weights import weight_variables
from ..groups import Group, build_tree
from .data import data_groups
from .draws import Draws, read_draws
from .elimination import Factor
from .factors import value_of
from .labels import Labels, Variables, check_coords
from .layout import Layout, Program, as_trained, read_layout
from .runs import as_integers, draw_prior, follow, predict
from .scoring import Scored, Scorer

if TYPE_CHECKING:
    import xarray as xr

Arrays = dict[str, NDArray[Any]]


def from_pyro(
    model: Callable[..., Any],
    guide_or_samples: Any,
    *args: Any,
    draws: int = 100,
    prior_draws: int = 100,
    seed: int | None = 0,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Any] | None = None,
    attrs: Mapping[str, Any] | None = None,
    **kwargs: Any,
) -> xr.DataTree:
    r"""Any Pyro program with its inference, in ArviZ's schema.

    Groups, where there is something to put into them:

    - `posterior`: continuous sites as given; discrete sites that can be listed and were
      not given, drawn from their exact joint posterior given the continuous ones and
      the data; `pyro.deterministic` sites; drawn weights;
    - `log_likelihood`: log p(y_n | w) with *every* discrete site summed out, never
      conditional on a draw of one, whose cross-validation is badly wrong;
    - `posterior_predictive`: discrete sites drawn anew;
    - `prior`, `prior_predictive`, `observed_data`;
    - `constant_data`: the program's other arguments that are numbers or tensors;
    - `sample_stats`: `lp`, log p(y, w) with discrete sites summed out, without the
      Jacobian of a sampler's transforms; what an MCMC run recorded; for draws from a
      guide `log_weight`, log p(y, w) - log q(w);
    - `importance`: `pareto_k`, `ess` and `error` of the likelihood, only where the
      discrete sites were too many to sum exactly and were weighted instead (1,000
      draws from their own distributions), with a warning; the root's `exact` is then 0.

    The likelihood is pointwise as far as examples are independent given w. In a mixture
    it has a value an example. Where a discrete site couples them it has one value for
    all that it couples: one a sequence in a hidden Markov model, one in all below a
    discrete site outside every plate. Observed sites that share a discrete site have
    one value together: `y_0 … y_9` as `y`, `u` and `v` as `u+v`. Masked
    observations count 0. `poutine.scale` is left aside.

    Plates give the dims; sites `x_0, x_1, …` of a `pyro.markov` or `for … in
    pyro.plate` loop become one variable `x` along `step` or the plate's name.

    Cost: three runs a draw, one with all choices at once (one in all where every draw
    is alike), and one a prior draw. A program that does not broadcast is run once for
    each combination of choices, with a warning.

    Args:
        model: Any Pyro program.
        guide_or_samples: Where w comes from: a guide or `SVI`, drawn from; an `MCMC`
            that has run; a mapping from sites to draws (draw, *shape) or (chain, draw,
            *shape) with the site's own shape; a `Fit` or its `WeightDraws`; or None, a
            point estimate: parameters as they are. Draws of a discrete site replace its
            exact ones in `posterior` alone.
        *args: The program's arguments, data included.
        draws: Draws from a guide or of a point estimate; given ones are all taken.
        prior_draws: Draws from the prior; 0 for none.
        seed: Of all draws made here; None: torch's global stream.
        dims: Variable -> names of all its axes after chain and draw, in place of ours.
        coords: Dim -> labels.
        attrs: Attributes of the root; what netCDF cannot hold is stored as JSON.
        **kwargs: The program's keyword arguments.

    Returns:
        The tree.

    Raises:
        TypeError: `guide_or_samples` is none of these.
        ValueError: A continuous latent site has no draws; draws are of other shapes;
            a plate subsamples at random; `dims` or `coords` do not fit; or the discrete
            sites can be summed out neither exactly nor by weighting.

    References:
        Obermeyer et al. 2019, arXiv:1902.03210 (the sums over discrete sites).

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(y):
        ...     with pyro.plate("data", len(y)):
        ...         z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        ...         pyro.sample("y", dist.Normal(4.0 * z, 1.0), obs=y)
        >>> tree = from_pyro(model, None, torch.tensor([0.0, 2.0, 4.0]), draws=10)
        >>> tree["posterior/z"].dims
        ('chain', 'draw', 'data')
        >>> tree["log_likelihood/y"].isel(chain=0, draw=0).round(decimals=3).values
        array([-2.122, -2.919, -1.275])
    """
    check_count("draws", draws)
    check_count("prior_draws", prior_draws, least=0)
    program = functools.partial(model, *args, **kwargs)
    with torch.no_grad(), RandomStream(seed)(), as_trained(model):
        layout = read_layout(program)
        labels = Labels(layout, dims)
        found = read_draws(guide_or_samples, layout, args, kwargs, draws)
        scorer = Scorer(layout, list(found.values))
        groups = _inferred(program, layout, labels, found, scorer)
        if prior_draws:
            groups |= _prior(program, layout, labels, prior_draws)
    groups |= data_groups(model, layout, labels, args, kwargs)
    labels.check_used()
    check_coords(groups, coords or {})
    library = {
        "inference_library": "pyro",
        "inference_library_version": version("pyro-ppl"),
    }
    tree = build_tree(groups, {**labels.coords, **(coords or {})}, attrs=library)
    own = {**found.attrs, **_guide_quality(groups), **(attrs or {})}
    tree.attrs.update(root_attrs(own, exact=scorer.exact))
    return tree


class _Rows(NamedTuple):
    """What was found draw by draw; one score stands for draws that are all alike."""

    scores: list[Scored]
    posterior: dict[str, list[Tensor]]
    predicted: dict[str, list[Tensor]]


def _draw_by_draw(
    program: Program, layout: Layout, draws: Draws, scorer: Scorer
) -> _Rows:
    """Score the program at each draw, draw its discrete sites, and predict."""
    n = draws.n_chains * draws.n_draws
    continuous = draws.only(
        {s.name for s in layout.of_kind("latent") if s.support is None}
    )
    alike = continuous.alike
    rows = _Rows([], {}, {})
    for i in range(n):
        at = divmod(i, draws.n_draws)
        with continuous.at(*at, program) as given:
            if not rows.scores or not alike:
                rows.scores.append(scorer.score(given, n if alike else 1))
            drawn = _discrete(scorer, rows.scores[-1], i if alike else 0)
            kept = {
                name: draws.values[name][at]
                for name in drawn.keys() & draws.values.keys()
            }
            drawn |= kept
            if layout.of_kind("deterministic"):
                drawn |= follow(given, layout, drawn)
            for name, value in drawn.items():
                rows.posterior.setdefault(name, []).append(value)
            for name, value in predict(given, layout).items():
                rows.predicted.setdefault(name, []).append(value)
    return rows


def _inferred(
    program: Program, layout: Layout, labels: Labels, draws: Draws, scorer: Scorer
) -> dict[str, Group]:
    """All groups that are known draw by draw."""
    lead = (draws.n_chains, draws.n_draws)
    rows = _draw_by_draw(program, layout, draws, scorer)
    values = {name: to_numpy(v) for name, v in draws.values.items()}
    values |= _joined(rows.posterior, layout, lead)
    order = [name for name in layout.sites if name in values]
    drawn = labels.group({name: values[name] for name in order}, 2)
    weights = {} if draws.weights is None else weight_variables(draws.weights)
    likelihoods = [score.log_likelihood for score in rows.scores]
    importance = [score.importance for score in rows.scores]
    predicted = _joined(rows.predicted, layout, lead)
    groups = {
        "posterior": Group(drawn | weights),
        "log_likelihood": Group(_factors(likelihoods, labels, lead)),
        "importance": Group(_factors(importance, labels, lead)),
        "posterior_predictive": Group(labels.group(predicted, 2)),
        "sample_stats": Group(_stats(rows.scores, draws, lead)),
    }
    return {name: group for name, group in groups.items() if group.variables}


def _discrete(scorer: Scorer, scored: Scored, row: int) -> dict[str, Tensor]:
    """Values of the discrete sites at one of the draws made of them."""
    return {
        site.name: value_of(site, scored.choices[site.name][row])
        for site in scorer.discrete
    }


def _joined(
    draws: Mapping[str, list[Tensor]], layout: Layout, lead: tuple[int, ...]
) -> Arrays:
    """(*lead, *shape) of values that were drawn one by one."""
    return {
        name: to_numpy(
            as_integers(torch.stack(each), layout.sites[name].support)
        ).reshape(*lead, *each[0].shape)
        for name, each in draws.items()
    }


def _factors(
    rows: Sequence[Mapping[str, Factor]], labels: Labels, lead: tuple[int, ...]
) -> Variables:
    """Values by draw with the plates as dims; one row stands for all draws."""
    result: Variables = {}
    for name, first in rows[0].items():
        values = np.stack([to_numpy(row[name].values) for row in rows])
        shape = (*lead, *values.shape[1:])
        wide = np.broadcast_to(values, (math.prod(lead), *values.shape[1:]))
        result[name] = (list(first.dims), wide.reshape(shape).copy())
    return labels.stack(result, 2)


def _stats(scores: Sequence[Scored], draws: Draws, lead: tuple[int, ...]) -> Variables:
    """`lp` and what is known of each draw."""
    each = np.array([score.lp for score in scores])
    lp = np.broadcast_to(each, (math.prod(lead),)).reshape(lead).copy()
    stats: Arrays = {"lp": lp}
    if draws.log_q is not None and draws.values and not draws.alike:
        stats["log_weight"] = lp - to_numpy(draws.log_q)
    stats |= {name: to_numpy(value) for name, value in draws.stats.items()}
    return {name: ([], values) for name, values in stats.items()}


def _guide_quality(groups: Mapping[str, Group]) -> dict[str, float]:
    """Pareto-k of log p(y, w) - log q(w): above 0.7 the guide misses the posterior."""
    weights = groups["sample_stats"].variables.get("log_weight")
    if weights is None:
        return {}
    k = pareto_k(torch.from_numpy(weights[1]).reshape(-1, 1)).item()
    return {"guide_pareto_k": k} if math.isfinite(k) else {}


def _prior(
    program: Program, layout: Layout, labels: Labels, n: int
) -> dict[str, Group]:
    """Draws from the prior, and predictions from them."""
    drawn: dict[str, list[Tensor]] = {}
    for _ in range(n):
        for name, value in draw_prior(program, layout).items():
            drawn.setdefault(name, []).append(value)
    values = _joined(drawn, layout, (1, n))
    observed = {site.name for site in layout.of_kind("observed")}
    parts = {
        "prior": {name: v for name, v in values.items() if name not in observed},
        "prior_predictive": {name: v for name, v in values.items() if name in observed},
    }
    return {name: Group(labels.group(v, 2)) for name, v in parts.items() if v}
