"""A routing decision: a discrete latent site of a Pyro program, and how to find one."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from .categorical import Categorical

Plan = Literal["auto", "enumerate", "sample"]
_PLANS = get_args(Plan)
T = TypeVar("T")

# What Pyro 1.9 reads from `infer` (poutine/runtime.py, InferDict), and our own key.
INFER_KEYS = (
    "enumerate",
    "expand",
    "num_samples",
    "tmc",
    "is_auxiliary",
    "is_observed",
    "obs",
    "prior",
    "was_observed",
    "baseline",
    "route",
)


def route(
    name: str,
    distribution: TorchDistributionMixin,
    *,
    plan: Plan = "auto",
    obs: Tensor | None = None,
) -> Tensor:
    """Sample a routing decision: which module acts here.

    A ``pyro.sample`` statement whose options travel under the one key
    ``infer={"route": {...}}``, so that the decision is found even where ``y`` is a
    discrete latent too. Inside ``pyro.plate("data", ...)`` at dim -1 the routing is
    dynamic (one decision an example), outside every plate it is static.

    Args:
        name: Name of the site; ours are ``route_{layer}`` and ``route_{layer}_{slot}``.
        distribution: What the router says, with enumerable support.
        plan: ``"enumerate"`` or ``"sample"`` fix what
            :func:`latentroute.inference.plan_enumeration` does with this site;
            ``"auto"`` leaves it to the budget.
        obs: The decision where it is given, in the distribution's own support.

    Returns:
        The decision, shaped like the distribution's batch; under enumeration the
        whole support on a dimension of its own on the left.

    Raises:
        ValueError: If ``plan`` is none of the three.

    Example:
        >>> import pyro.distributions as dist, torch
        >>> route("a", dist.Categorical(logits=torch.zeros(3)), obs=torch.tensor(2))
        tensor(2)
    """
    _check_plan(name, plan)
    infer: Any = {"route": {"plan": plan}}
    if plan != "sample":
        infer["enumerate"] = "parallel"  # what Pyro's own TraceEnum_ELBO reads
    value: Tensor = pyro.sample(name, distribution, obs=obs, infer=infer)
    return value


class ProgramError(ValueError):
    """A program that cannot be what it is used as, however it is run."""


class Site(NamedTuple):
    """One sample statement of a program, as it ran."""

    name: str
    fn: dist.TorchDistribution
    value: Tensor
    observed: bool
    infer: dict[str, Any]
    frames: tuple[Any, ...]  # the plates it stands in (Pyro's CondIndepStackFrame)
    mask: Tensor | bool | None
    scale: Tensor | float

    @property
    def is_enumerable(self) -> bool:
        """Whether the site is latent and its values can be listed."""
        return not self.observed and bool(self.fn.has_enumerate_support)

    @property
    def plan(self) -> Plan:
        """What the program asks of :func:`plan_enumeration`."""
        plan: Plan = self.infer.get("route", {}).get("plan", "auto")
        return plan


class Record(Messenger):
    """Keeps the sample statements of one run of a program, in program order.

    Args:
        assign: Gives a latent site its value; ``None`` leaves it to the program.
            Statements whose values others have set are left alone.

    Raises:
        ValueError: If two statements share a name, or one carries a bad ``infer``.
    """

    def __init__(self, assign: Callable[[Site], Tensor | None] | None = None) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}
        self._assign = assign

    def run(self, program: Callable[..., T], *args: Any) -> T:
        """Run the program under this record."""
        with local_parameters(program)(), self:
            return program(*args)

    def _pyro_sample(self, msg: Any) -> None:
        if self._assign is None or msg["is_observed"] or msg["done"]:
            return
        if site_is_subsample(msg):
            return
        value = self._assign(_site(msg))
        if value is not None:
            msg["value"], msg["done"] = value, True

    def _pyro_post_sample(self, msg: Any) -> None:
        # pyro.deterministic is a masked, observed Delta: no factor of the density.
        if site_is_subsample(msg) or msg["infer"].get("_deterministic"):
            return
        if self._assign is None:  # once is enough: programs are read before they run
            check_infer(msg["name"], msg["infer"])
            _check_choices(msg)
        if msg["name"] in self.sites:
            raise ProgramError(
                f"two sample statements are named {msg['name']!r}: give each its own"
            )
        self.sites[msg["name"]] = _site(msg)


def local_parameters(
    program: Callable[..., Any],
) -> Callable[[], AbstractContextManager[None]]:
    """A context in which a program's ``PyroModule`` parameters stay with their module.

    Nothing enters Pyro's global store, and no module of the same names is mistaken for
    it. Made once for a program, which is walked through; used at each run.
    """
    modules = program.modules() if isinstance(program, nn.Module) else ()
    found = (getattr(module, "_pyro_context", None) for module in modules)
    contexts: list[Any] = [context for context in found if context is not None]
    if not contexts:
        return nullcontext
    for context in contexts:
        # A PyroModule has the state that the mode reads only if the mode was on when
        # the module was made (Pyro 1.9, nn/module.py).
        if not hasattr(context, "param_state"):
            context.param_state = {"params": {}, "constraints": {}}
    return lambda: pyro.settings.context(module_local_params=True)


def _site(msg: Any) -> Site:
    return Site(
        name=msg["name"],
        fn=msg["fn"],
        value=msg["value"],
        observed=msg["is_observed"],
        infer=msg["infer"],
        frames=tuple(msg["cond_indep_stack"]),
        mask=msg["mask"],
        scale=msg["scale"],
    )


def check_infer(name: str, infer: dict[str, Any]) -> None:
    """Refuse misspelt ``infer`` options, which Pyro passes over in silence.

    Keys that resemble no known one are taken for another library's and left alone.

    Raises:
        ValueError: Names the site, what was given and what is accepted.
    """
    for key in infer:
        if key in INFER_KEYS or key.startswith("_"):
            continue
        close = difflib.get_close_matches(key, INFER_KEYS, n=1, cutoff=0.6)
        if close:
            raise ValueError(
                f"site {name!r}: unknown infer option {key!r}; did you mean "
                f"{close[0]!r}? Accepted: {', '.join(INFER_KEYS)}"
            )
    options = infer.get("route", {})
    if not isinstance(options, dict):
        raise ValueError(
            f"site {name!r}: infer['route'] must be a dict of options such as "
            f"{{'plan': 'auto'}}, got {options!r}"
        )
    unknown = sorted(set(options) - {"plan"})
    if unknown:
        raise ValueError(
            f"site {name!r}: unknown route option {unknown[0]!r}; accepted: 'plan'"
        )
    _check_plan(name, options.get("plan", "auto"))


def _check_choices(msg: Any) -> None:
    """Refuse given values at which our Categorical, which looks at none, is nothing."""
    fn, value = msg["fn"], msg["value"]
    if not msg["is_observed"] or msg["mask"] is not None:
        return
    if isinstance(fn, Categorical) and not (inside := fn.support.check(value)).all():
        raise ValueError(
            f"site {msg['name']!r} must be given choices 0 .. "
            f"{fn.logits.shape[-1] - 1}, got {value[~inside].flatten()[0].item()}"
        )


def _check_plan(name: str, plan: Any) -> None:
    if plan not in _PLANS:
        raise ValueError(
            f"site {name!r}: plan must be one of {', '.join(_PLANS)}, got {plan!r}"
        )


def latent_routes(sites: dict[str, Site]) -> list[Site]:
    """The routing decisions among the statements of one run, in program order.

    Where something is observed (``y``, or a ``pyro.factor``), every latent site with
    enumerable support is a decision. Where nothing is, only the sites marked by
    ``infer={"route": ...}`` are, because ``y`` itself is then latent.
    """
    conditioned = any(s.observed and "route" not in s.infer for s in sites.values())
    return [
        s
        for s in sites.values()
        if s.is_enumerable and (conditioned or "route" in s.infer)
    ]


def route_sites(model: Callable[..., Any], *args: Any) -> list[str]:
    """Names of the routing decisions of any Pyro program, in program order.

    Runs the program once on ``args`` and leaves the random state as it was.

    Args:
        model: A Pyro program ``model(x, y=None)``.
        *args: What it takes. Give ``y``: without it only sites marked by
            :func:`route` are found.

    Returns:
        The names.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x, y=None):
        ...     with pyro.plate("data", len(x)):
        ...         a = pyro.sample("a", dist.Categorical(logits=torch.zeros(3)))
        ...         return pyro.sample("y", dist.Normal(a * x, 1.0), obs=y)
        >>> route_sites(model, torch.ones(2), torch.ones(2))
        ['a']
    """
    record = Record()
    with torch.random.fork_rng(), torch.no_grad():
        record.run(model, *args)
    return [site.name for site in latent_routes(record.sites)]
