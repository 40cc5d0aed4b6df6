"""Draws of a program's latent sites, whatever they were given as."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from pyro import poutine
from pyro.infer import MCMC, SVI
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from ...inference.fit import Fit
from ...inference.weight_draws import WeightDraws
from .layout import Layout, Program, as_trained


@dataclass(frozen=True)
class Draws:
    """Values of latent sites, and of weights, by chain and draw.

    Args:
        n_chains: How many chains.
        n_draws: How many draws each has.
        values: Values of latent sites by name, (chain, draw, *shape of the site).
        weights: Draws of the program's tensors, if there are any.
        stats: What is known of each draw, (chain, draw).
        log_q: (chain, draw) log-density of the guide that the values are drawn from.
        attrs: What is known of all.
    """

    n_chains: int
    n_draws: int
    values: Mapping[str, Tensor] = field(default_factory=dict)
    weights: WeightDraws | None = None
    stats: Mapping[str, Tensor] = field(default_factory=dict)
    log_q: Tensor | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def alike(self) -> bool:
        """Whether all draws are one: a point estimate."""
        return self.weights is None and all(
            torch.equal(value, value[:1, :1].expand_as(value))
            for value in self.values.values()
        )

    @contextmanager
    def at(self, chain: int, draw: int, program: Program) -> Iterator[Program]:
        """The program at one draw of its latent sites and weights, inside ``with``."""
        values = {name: v[chain, draw] for name, v in self.values.items()}
        given = poutine.condition(program, data=values) if values else program
        if self.weights is None:
            yield given
            return
        with self.weights.at(chain, draw):
            yield given

    def only(self, names: set[str]) -> Draws:
        """The same with the values of some sites alone."""
        kept = {name: v for name, v in self.values.items() if name in names}
        return replace(self, values=kept)


def read_draws(
    source: Any, layout: Layout, args: tuple[Any, ...], kwargs: Any, n: int
) -> Draws:
    """Draws from whatever holds or makes them.

    Args:
        source: As in :func:`~latentroute.analysis.from_pyro`.
        layout: The program's statements.
        args: The program's arguments.
        kwargs: Its keyword arguments.
        n: Draws from a guide, or of a point estimate.

    Raises:
        TypeError: The source is none of these.
        ValueError: The values are of other shapes than the sites, or sites are missing.
    """
    if isinstance(source, Fit):
        source = source.weight_draws
    if isinstance(source, SVI):
        source = source.guide
    if source is None:
        draws = Draws(1, n)
    elif isinstance(source, WeightDraws):
        draws = Draws(
            source.n_chains, source.n_draws, weights=source, stats=source.stats
        )
    elif isinstance(source, MCMC):
        draws = _from_mcmc(source, layout)
    elif isinstance(source, Mapping):
        draws = _from_mapping(source, layout)
    elif callable(source):
        draws = _from_guide(source, layout, args, kwargs, n)
    else:
        raise TypeError(
            f"guide_or_samples: got {type(source).__name__}, expected a guide, an "
            "MCMC, a mapping from sites to draws, a Fit, WeightDraws, or None"
        )
    _check_complete(draws, layout)
    return draws


def _from_mcmc(mcmc: MCMC, layout: Layout) -> Draws:
    """What a sampler kept, with its divergences."""
    found = mcmc.get_samples(group_by_chain=True)
    draws = _from_mapping(found, layout)
    info: dict[str, Any] = {
        "warmup": mcmc.warmup_steps,
        "sampler": type(mcmc.kernel).__name__,
    }
    told_by: Any = mcmc._diagnostics  # by chain; diagnostics() takes ESS for it too
    known = told_by[0] or {}
    stats: dict[str, Tensor] = {}
    if "divergences" in known:
        diverging = torch.zeros(draws.n_chains, draws.n_draws, dtype=torch.bool)
        for chain, told in enumerate(told_by):
            diverging[chain, list(told["divergences"])] = True
        stats["diverging"] = diverging
    if "acceptance rate" in known:
        rates = [float(told["acceptance rate"]) for told in told_by]
        info["acceptance_rate"] = rates
    return Draws(draws.n_chains, draws.n_draws, draws.values, stats=stats, attrs=info)


def _from_mapping(samples: Mapping[str, Tensor], layout: Layout) -> Draws:
    """(draw, *shape) or (chain, draw, *shape) of each latent site."""
    latent = {site.name: site for site in layout.of_kind("latent")}
    values = {}
    for name, given in samples.items():
        if name not in latent:
            continue  # a deterministic site, say: it follows from the others
        value, shape = torch.as_tensor(given), latent[name].value.shape
        lead = value.dim() - len(shape)
        if lead not in (1, 2) or value.shape[lead:] != shape:
            raise ValueError(
                f"draws of site {name!r}: got shape {tuple(value.shape)}, expected "
                f"(draws, *{tuple(shape)}) or (chains, draws, *{tuple(shape)})"
            )
        values[name] = value.unsqueeze(0) if lead == 1 else value
    if not values:
        raise ValueError(
            f"draws: got sites {sorted(samples)}, expected some of the program's "
            f"latent sites {sorted(latent)} among them"
        )
    leads = {name: tuple(value.shape[:2]) for name, value in values.items()}
    if len(set(leads.values())) > 1:
        raise ValueError(
            f"draws: got (chains, draws) {leads}, expected as many of each"
        )
    n_chains, n_draws = next(iter(leads.values()))
    return Draws(n_chains, n_draws, values)


def _from_guide(
    guide: Callable[..., Any],
    layout: Layout,
    args: tuple[Any, ...],
    kwargs: Any,
    n: int,
) -> Draws:
    """Independent draws from a guide, and their log-density."""
    latent = {site.name: site for site in layout.of_kind("latent")}
    drawn: dict[str, list[Tensor]] = {}
    log_q: list[Any] = []
    listed = False
    with as_trained(guide):
        for _ in range(n):
            trace = poutine.trace(guide).get_trace(*args, **kwargs)
            log_q.append(trace.log_prob_sum())
            nodes: Any = trace.nodes
            for name, node in nodes.items():
                if name in latent and node["type"] == "sample":
                    if not site_is_subsample(node):
                        drawn.setdefault(name, []).append(node["value"])
                        listed |= latent[name].support is not None
    missing = sorted(set(latent) - set(drawn))
    if not drawn and missing:
        raise ValueError(
            f"the guide draws none of the program's latent sites {missing}; expected "
            "its continuous ones (a program without any needs no guide: pass None)"
        )
    values = {
        name: torch.stack([v.expand(latent[name].value.shape) for v in each])[None]
        for name, each in drawn.items()
    }
    density = torch.stack([torch.as_tensor(q) for q in log_q]).double()[None]
    known = not listed and all(map(math.isfinite, density.flatten().tolist()))
    return Draws(1, n, values, log_q=density if known else None)


def _check_complete(draws: Draws, layout: Layout) -> None:
    """Refuse draws that leave a site neither given nor listed."""
    for site in layout.of_kind("latent"):
        if site.name not in draws.values and site.support is None:
            raise ValueError(
                f"latent site {site.name!r} has no draws (there are some of "
                f"{sorted(draws.values)}), and its values cannot be listed; expected "
                "draws of it in guide_or_samples"
            )
