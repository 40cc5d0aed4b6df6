"""What a routed program looks like: its decisions, its plates, and what a run costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from pyro.poutine.util import site_is_factor
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..models.routing import Plan, Record, Site, latent_routes
from ..models.stack import chosen_alone
from .training_checks import check_program


class RouteSite(NamedTuple):
    """One routing decision."""

    name: str
    n_choices: int
    static: bool  # one decision for all examples
    plan: Plan
    support: Tensor  # (M, *event) what choice m is as a value of the site
    is_range: bool  # whether the values are 0 .. M - 1 themselves

    def value_of(self, choice: Tensor) -> Tensor:
        """The site's values at choices 0 .. M - 1."""
        if self.is_range:
            return choice.to(self.support.dtype)
        return self.support.to(choice.device)[choice]

    def choice_of(self, value: Tensor) -> Tensor:
        """Choices 0 .. M - 1 of values of the site."""
        if self.is_range:
            return value.long()
        event_dim = self.support.dim() - 1
        same = value.unsqueeze(-1 - event_dim) == self.support.to(value.device)
        if event_dim:
            same = same.flatten(-event_dim).all(-1)
        return same.long().argmax(-1)


class Structure(NamedTuple):
    """The routing decisions of a program, and what one run of it takes.

    Attributes:
        sites: The decisions in program order.
        nesting: Depth of the plates; sample and enumeration dims start to its left.
        n_examples: Size of the data plate in the run that was read (1: none).
        coupled: Whether something random stands outside the data plate: a static site,
            or an observation. The examples then have one marginal together.
        stage_bytes: Bytes that a run makes before the first site, between the first
            and the second, .., after the last.
    """

    sites: tuple[RouteSite, ...]
    nesting: int
    n_examples: int
    coupled: bool
    stage_bytes: tuple[int, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the sites."""
        return tuple(site.name for site in self.sites)

    @property
    def n_choices(self) -> tuple[int, ...]:
        """Number of choices of each site."""
        return tuple(site.n_choices for site in self.sites)

    @property
    def n_routes(self) -> int:
        """Number of routes P = prod M_l."""
        return math.prod(self.n_choices)

    @property
    def static_sites(self) -> tuple[RouteSite, ...]:
        """The sites that stand outside the data plate."""
        return tuple(site for site in self.sites if site.static)

    def enumeration_bytes(self, n_examples: int, n_fixed: int = 0) -> int:
        """An upper bound of the memory that enumerating the sites takes.

        What a run makes after site l is made once for each choice at sites 0 .. l. The
        bound is loose where a program's later statements do not depend on earlier
        routes, and counts what a backward pass would keep.

        Args:
            n_examples: Examples in the batch.
            n_fixed: How many of the first sites are held at one choice.
        """
        routes, total = 1, self.stage_bytes[0]
        for i, made in enumerate(self.stage_bytes[1:]):
            routes *= 1 if i < n_fixed else self.sites[i].n_choices
            total += routes * made
        return total * n_examples // self.n_examples


def read_structure(model: Callable[..., Any], *args: Any) -> Structure:
    """Read a program's routing decisions from one plain run.

    The random state is left as it was.

    Raises:
        ValueError: If there is no decision, nothing is observed, another latent
            variable is left, or a site stands in plates where it cannot be summed out.
        TypeError: If the model is no program.
    """
    check_program(model)
    meter = _ByteMeter()
    record = _StagedRecord(meter)
    with untouched_randomness(), torch.no_grad(), chosen_alone(), meter:
        record.run(model, *args)
    latent = latent_routes(record.sites)
    _check(record.sites, latent)
    with torch.no_grad(), meter:
        for site in record.sites.values():
            meter.at(site.name)
            site.fn.log_prob(site.value)  # for what it makes
    sites = tuple(_route_site(site) for site in latent)
    depth = [-f.dim for s in record.sites.values() for f in s.frames]
    return Structure(
        sites=sites,
        nesting=max(depth, default=1),
        n_examples=n_examples(record.sites),
        coupled=not all(map(in_data_plate, record.sites.values())),
        stage_bytes=meter.stages([site.name for site in sites]),
    )


def in_data_plate(site: Site) -> bool:
    """Whether the site has one value an example."""
    return any(frame.dim == -1 for frame in site.frames)


def n_examples(sites: dict[str, Site]) -> int:
    """Size of the plate at dim -1 (1 where there is none).

    Raises:
        ValueError: If plates at dim -1 disagree.
    """
    sizes = {f.name: f.size for s in sites.values() for f in s.frames if f.dim == -1}
    if len(set(sizes.values())) > 1:
        raise ValueError(
            f"plates at dim -1 disagree in size: {sizes}; the data plate must be the "
            "only one there"
        )
    return int(next(iter(sizes.values()), 1))


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Leave the random state of torch as it was."""
    cuda = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=cuda):
        yield


def _route_site(site: Site) -> RouteSite:
    event = site.fn.event_shape
    support = site.fn.enumerate_support(expand=False).reshape(-1, *event)
    return RouteSite(
        name=site.name,
        n_choices=len(support),
        static=not in_data_plate(site),
        plan=site.plan,
        support=support,
        is_range=support.tolist() == list(range(len(support))),
    )


def _check(sites: dict[str, Site], latent: list[Site]) -> None:
    given = any(s.observed and "route" in s.infer for s in sites.values())
    if not latent and not given:
        raise ValueError(
            "the model has no routing site: sample one from a distribution with "
            'enumerable support, such as route("a", Categorical(logits=...)), and pass '
            f"y (its sites: {', '.join(sites) or 'none'})"
        )
    routes = {site.name for site in latent}
    for site in sites.values():
        _check_plates(site, routes)
        if not site.observed and site.name not in routes:
            raise ValueError(
                f"site {site.name!r} ({type(site.fn).__name__}) is neither observed "
                "nor a routing site: give its value (y, or pyro.condition)"
            )
    if not any(s.observed for s in sites.values()):
        raise ValueError("the model observes nothing: pass y, or add a pyro.factor")
    n_examples(sites)
    outside = [s.name for s in sites.values() if s.observed and not in_data_plate(s)]
    if outside and any(map(in_data_plate, latent)) and all(map(in_data_plate, latent)):
        raise ValueError(
            f"site {outside[0]!r} is observed outside the data plate: put it into "
            'pyro.plate("data", N) at dim -1, so that it belongs to an example'
        )


def _check_plates(site: Site, routes: set[str]) -> None:
    for frame in site.frames:
        if frame.dim is None:
            raise ValueError(
                f"site {site.name!r} stands in a sequential plate "
                f"(for i in plate {frame.name!r}): write `with pyro.plate(...)`"
            )
        if site.name in routes and frame.dim != -1:
            raise ValueError(
                f"routing site {site.name!r} stands in plate {frame.name!r} at dim "
                f"{frame.dim}: a routing site stands in the data plate at dim -1 alone "
                "(dynamic) or outside every plate (static); give each decision a site"
            )
    vectorised = max((-frame.dim for frame in site.frames), default=0)
    shape = site.fn.batch_shape + site.fn.event_shape
    if site.observed and _broadcast(site.value.shape, shape) != shape:
        raise ValueError(
            f"site {site.name!r} observes values of shape {tuple(site.value.shape)}, "
            f"and its distribution is of shape {tuple(shape)}: reshape one of them"
        )
    extra = len(site.fn.batch_shape) - vectorised
    if extra > 0 and not site_is_factor({"type": "sample", "fn": site.fn}):
        raise ValueError(
            f"site {site.name!r} has batch shape {tuple(site.fn.batch_shape)}, more "
            'than its plates explain: put it into pyro.plate("data", N) at dim -1, or '
            "call .to_event() on its distribution"
        )


def _broadcast(*shapes: torch.Size) -> torch.Size | None:
    try:
        return torch.Size(torch.broadcast_shapes(*shapes))
    except RuntimeError:
        return None


class _ByteMeter(TorchDispatchMode):
    """Counts the bytes of every new tensor, split by the routing sites passed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._made: dict[str, int] = {"": 0}
        self._last = ""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Or torch would import all of its compiler, which takes a second, to say that
        # the method below is not to be compiled.
        return False

    def at(self, name: str) -> None:
        """Count what is made from here on as what follows this site."""
        self._last = name
        self._made.setdefault(name, 0)

    def stages(self, names: Sequence[str]) -> tuple[int, ...]:
        """Bytes made before the first of ``names``, after it, .., after the last."""
        stages = [0]
        for name, made in self._made.items():
            if name in names:
                stages.append(0)
            stages[-1] += made
        return tuple(stages)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            made = out if isinstance(out, (tuple, list)) else (out,)
            self._made[self._last] += sum(
                t.numel() * t.element_size() for t in made if isinstance(t, Tensor)
            )
        return out


class _StagedRecord(Record):
    """A record that tells the meter which sites have passed."""

    def __init__(self, meter: _ByteMeter) -> None:
        super().__init__()
        self._meter = meter

    def _pyro_post_sample(self, msg: Any) -> None:
        super()._pyro_post_sample(msg)
        if msg["name"] in self.sites:
            self._meter.at(msg["name"])
