"""The statements of a Pyro program, as one plain run shows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_factor, site_is_subsample
from torch import Tensor, nn
from torch.distributions import transform_to

from ...inference.structure import untouched_randomness
from ...models.routing import local_parameters

Kind = Literal["latent", "observed", "factor", "deterministic"]
Program = Callable[[], Any]  # a program with its arguments


class Plate(NamedTuple):
    """A vectorised plate around a statement."""

    name: str
    dim: int
    size: int


class SiteLayout(NamedTuple):
    """One sample statement.

    Attributes:
        name: Its name.
        kind: What it is: a `pyro.factor` is "factor", whatever it scores.
        value: In the plain run, broadcast to the shape of its distribution.
        event_dim: How many of its last axes are one event.
        plates: The vectorised plates around it, from the left.
        loop: The sequential plate it stands in ("" in a `pyro.markov` loop), None
            outside such loops.
        support: (M, *event) of a latent statement whose values can be listed.
    """

    name: str
    kind: Kind
    value: Tensor
    event_dim: int
    plates: tuple[Plate, ...]
    loop: str | None
    support: Tensor | None


class Layout(NamedTuple):
    """The statements of a program in program order.

    Attributes:
        sites: The statements by name.
        nesting: How many axes on the right plates and batches take.
    """

    sites: dict[str, SiteLayout]
    nesting: int

    def of_kind(self, *kinds: Kind) -> list[SiteLayout]:
        """The statements of some kinds."""
        return [site for site in self.sites.values() if site.kind in kinds]

    @property
    def plates(self) -> dict[str, int]:
        """Sizes of the vectorised plates."""
        return {p.name: p.size for s in self.sites.values() for p in s.plates}


def read_layout(program: Program) -> Layout:
    """Read a program's statements from one plain run, the random state left alone.

    Raises:
        ValueError: If a plate takes a random part of its rows.
    """
    with untouched_randomness(), torch.no_grad(), _Feasible():
        nodes = traced(program)
    sites = {name: _site(node) for name, node in nodes.items()}
    depths = [len(node["fn"].batch_shape) for node in nodes.values()]
    depths += [-p.dim for s in sites.values() for p in s.plates]
    return Layout(sites, max(depths, default=0))


class _Feasible(Messenger):
    """Gives latent sites that cannot be drawn, of improper priors, some value."""

    def _pyro_sample(self, msg: Any) -> None:
        fn = msg["fn"]
        if msg["is_observed"] or msg["done"] or site_is_subsample(msg):
            return
        try:
            fn.sample()
        except NotImplementedError:
            transform = transform_to(fn.support)
            origin = torch.zeros(transform.inverse_shape(fn.shape()))
            msg["value"], msg["done"] = transform(origin), True


def traced(program: Program) -> dict[str, Any]:
    """The sample statements of one run by name, each as its trace node.

    Raises:
        ValueError: If a plate takes a random part of its rows.
    """
    nodes: Any = poutine.trace(program).get_trace().nodes
    for name, node in nodes.items():
        if node["type"] == "sample" and site_is_subsample(node):
            fn = node["fn"]
            if fn.subsample_size is not None and fn.subsample_size < fn.size:
                raise ValueError(
                    f"plate {name!r}: got {fn.subsample_size} of {fn.size} rows, other "
                    "ones at each run; expected all: leave subsample_size out, or give "
                    "the rows by subsample="
                )
    return {
        name: node
        for name, node in nodes.items()
        if node["type"] == "sample" and not site_is_subsample(node)
    }


def kind_of(node: Mapping[str, Any]) -> Kind:
    """What a statement is."""
    if node["infer"].get("_deterministic"):
        return "deterministic"
    if site_is_factor(node):  # type: ignore[arg-type]
        return "factor"
    return "observed" if node["is_observed"] else "latent"


def _site(node: Mapping[str, Any]) -> SiteLayout:
    fn, kind, value = node["fn"], kind_of(node), node["value"]
    frames = node["cond_indep_stack"]
    if kind in ("latent", "observed"):
        value = value.expand(torch.broadcast_shapes(value.shape, fn.shape()))
    is_listed = kind == "latent" and fn.has_enumerate_support
    loops = [frame.name for frame in frames if not frame.vectorized]
    if not loops and "_markov_depth" in node["infer"]:
        loops = [""]
    plates = [Plate(f.name, f.dim, f.size) for f in frames if f.vectorized]
    return SiteLayout(
        name=node["name"],
        kind=kind,
        value=value.detach(),
        event_dim=0 if kind == "deterministic" else fn.event_dim,
        plates=tuple(sorted(plates, key=lambda plate: plate.dim)),
        loop=loops[-1] if loops else None,
        support=support_of(fn) if is_listed else None,
    )


def support_of(fn: Any) -> Tensor:
    """(M, *event) the values of a distribution that can be listed."""
    support: Tensor = fn.enumerate_support(expand=False)
    return support.reshape(-1, *fn.event_shape)


@contextmanager
def as_trained(program: Callable[..., Any]) -> Iterator[None]:
    """Modules in evaluation mode, with their own parameters, inside ``with``."""
    if not isinstance(program, nn.Module):
        yield
        return
    training = program.training
    program.train(False)
    try:
        with local_parameters(program)():
            yield
    finally:
        program.train(training)
