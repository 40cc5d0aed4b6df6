"""The joint density of a program as factors over its discrete sites."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.enum_messenger import EnumMessenger
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ...inference.plan import free_memory
from .elimination import Factor, NotSummable, Variable, value_at
from .layout import Layout, Program, SiteLayout, kind_of, traced

MOST_RUNS = 4096  # of a program that does not broadcast
_MOST_ELEMENTS = 2**26
_SHARE = 64  # bytes of free memory that one element of a table may take

# What a program raises that does not broadcast to the left.
SHAPE_ERRORS = (RuntimeError, ValueError, IndexError, TypeError, AssertionError)


class Factors(NamedTuple):
    """The log joint density as a sum of labelled terms.

    Attributes:
        terms: One for each statement that has a density, in float64.
        variables: The discrete sites.
        plates: Sizes of the plates.
    """

    terms: list[Factor]
    variables: dict[str, Variable]
    plates: dict[str, int]

    def without(self, sites: set[str]) -> Factors:
        """The same but for some statements."""
        kept = [term for term in self.terms if not term.sites & sites]
        return self._replace(terms=kept)


def most_elements() -> int:
    """Elements that one table may have."""
    return min(_MOST_ELEMENTS, max(free_memory() // _SHARE, 1))


def read_factors(
    program: Program, layout: Layout, discrete: Sequence[SiteLayout]
) -> Factors:
    """Run a program with all choices of its discrete sites at once.

    Sites in `pyro.markov` share dimensions, so that a chain's terms stay small.

    Args:
        program: Its other latent sites have their values.
        layout: Its statements.
        discrete: The sites to list.

    Raises:
        NotSummable: If the run makes a tensor that is too large.
        RuntimeError, ValueError, …: If the program does not broadcast.
    """
    names = {site.name for site in discrete}
    config: Any = {"enumerate": "parallel", "expand": False, "num_samples": None}
    none: Any = {}
    marked = poutine.infer_config(
        program, lambda node: config if node["name"] in names else none
    )
    with poutine.block(), EnumMessenger(-1 - layout.nesting), _SizeLimit():
        nodes = traced(marked)
        log_probs = {
            name: log_prob_of(node, masked=name not in names)
            for name, node in nodes.items()
        }
    owner = {
        node["infer"]["_dim_to_id"][node["infer"]["_enumerate_dim"]]: name
        for name, node in nodes.items()
        if "_enumerate_dim" in node["infer"]
    }
    variables = _variables(discrete)
    terms = [
        _label(
            node,
            log_probs[name],
            {d: owner[i] for d, i in node["infer"]["_dim_to_id"].items() if i in owner},
            variables,
        )
        for name, node in nodes.items()
        if kind_of(node) != "deterministic"
    ]
    return Factors(terms, variables, layout.plates)


def read_one_by_one(
    program: Program, layout: Layout, discrete: Sequence[SiteLayout]
) -> Factors:
    """Run a program once for each combination of choices, as Python control flow needs.

    All elements of a plate take the same choice in a run.

    Raises:
        NotSummable: If there are too many combinations.
        ValueError: If the statements differ from run to run.
    """
    sizes = [len(_support(site)) for site in discrete]
    if math.prod(sizes) > MOST_RUNS:
        raise NotSummable(
            f"the program does not broadcast and has {math.prod(sizes):,} combinations "
            f"of choices, more than the {MOST_RUNS:,} that are run one by one"
        )
    runs = _run_all(program, layout, discrete, sizes)
    shape = [-1 - layout.nesting - i for i in range(len(discrete))]
    dims = {dim: site.name for dim, site in zip(shape, discrete, strict=True)}
    variables = _variables(discrete)
    terms = []
    for name, node in runs[0].items():
        if kind_of(node) == "deterministic":
            continue
        masked = name not in variables
        each = [log_prob_of(run[name], masked=masked) for run in runs]
        wide = [t[(None,) * (layout.nesting - t.dim())] for t in each]
        table = _vary(torch.stack(wide).unflatten(0, sizes), len(sizes))
        order = [*reversed(range(len(sizes))), *range(len(sizes), table.dim())]
        terms.append(_label(node, table.permute(order), dims, variables))
    return Factors(terms, variables, layout.plates)


def _run_all(
    program: Program,
    layout: Layout,
    discrete: Sequence[SiteLayout],
    sizes: Sequence[int],
) -> list[dict[str, Any]]:
    """A run at each combination of choices, the last site's changing fastest."""
    runs = []
    for choices in itertools.product(*map(range, sizes)):
        given = {
            site.name: value_of(site, torch.full((), m))
            for site, m in zip(discrete, choices, strict=True)
        }
        nodes = traced(poutine.condition(program, data=given))
        if list(nodes) != list(layout.sites):
            raise ValueError(
                f"the program has sites {list(nodes)} at one choice of its discrete "
                f"sites and {list(layout.sites)} at another; expected the same at all"
            )
        runs.append(nodes)
    return runs


def warn_one_by_one(reason: str) -> None:
    """Say that a program is run once for each combination of choices."""
    warnings.warn(
        "the program does not broadcast over its discrete sites, so it is run once for "
        f"each combination of their choices, which is slower ({reason})",
        stacklevel=2,
    )


def disagreement(
    factors: Factors, choices: Mapping[str, Tensor], program: Program
) -> str | None:
    """How the terms at some choices differ from a plain run at them.

    Args:
        factors: The terms.
        choices: Each discrete site's (1, *plates) choices.
        program: The program with the same values of its discrete sites.
    """
    with poutine.block():
        nodes = traced(program)
    for term in factors.terms:
        (name,) = term.sites
        ours = value_at(term, choices, factors.variables, factors.plates, 1).sum()
        masked = name not in factors.variables
        plain = log_prob_of(nodes[name], masked=masked).sum()
        if not torch.allclose(ours, plain, rtol=1e-4, atol=1e-4, equal_nan=True):
            return (
                f"site {name!r}: log-probability {ours.item():.6g}, and in a plain run "
                f"{plain.item():.6g}"
            )
    return None


def value_of(site: SiteLayout, choice: Tensor) -> Tensor:
    """A discrete site's values at choices (*batch), of its own shape.

    Args:
        site: The site.
        choice: (*plates of the site) or (): the same everywhere.
    """
    values = _support(site)[choice]
    batch = site.value.dim() - site.event_dim
    if choice.dim():
        shape = [1] * batch
        for plate in site.plates:
            shape[plate.dim] = plate.size
        values = values.reshape(*shape, *values.shape[choice.dim() :])
    return values.expand(site.value.shape).clone()


def _support(site: SiteLayout) -> Tensor:
    assert site.support is not None
    return site.support


def _variables(discrete: Sequence[SiteLayout]) -> dict[str, Variable]:
    return {
        site.name: Variable(len(_support(site)), tuple(p.name for p in site.plates))
        for site in discrete
    }


def _vary(table: Tensor, n_axes: int) -> Tensor:
    """A table with the first axes along which it does not vary cut to size one."""
    for axis in range(n_axes):
        first = table.narrow(axis, 0, 1)
        if torch.equal(first.expand_as(table), table):
            table = first
    return table


def log_prob_of(node: Mapping[str, Any], *, masked: bool) -> Tensor:
    """A statement's log-probability in float64, whatever its scale.

    Args:
        node: The statement.
        masked: Whether its mask holds. That of a listed site does not: its choices must
            sum to one, as in Pyro's own sums.
    """
    log_prob: Tensor = node["fn"].log_prob(node["value"]).double()
    if masked:
        log_prob = scale_and_mask(log_prob, mask=node["mask"])
    sizes = [1] * max(
        (-f.dim for f in node["cond_indep_stack"] if f.vectorized), default=0
    )
    for frame in node["cond_indep_stack"]:
        if frame.vectorized:
            sizes[frame.dim] = frame.size
    return log_prob.expand(torch.broadcast_shapes(log_prob.shape, tuple(sizes)))


def _label(
    node: Mapping[str, Any],
    log_prob: Tensor,
    listed: Mapping[int, str],
    variables: Mapping[str, Variable],
) -> Factor:
    """Name the axes of a log-probability, discrete sites before plates.

    An axis that no plate explains is a part of the statement: it has a name of its own.
    """
    plates = {f.dim: f.name for f in node["cond_indep_stack"] if f.vectorized}
    variable, rest, squeezed = [], [], []
    for dim in range(-log_prob.dim(), 0):
        if dim in plates:
            rest.append((dim, plates[dim]))
        elif log_prob.shape[dim] == 1:
            squeezed.append(dim)
        elif dim in listed:
            variable.append((dim, listed[dim]))
        else:
            rest.append((dim, f"{node['name']}_dim_{len(rest)}"))
    missing = {p for _, v in variable for p in variables[v].plates} - {*plates.values()}
    if missing:
        raise ValueError(
            f"site {node['name']!r} depends on sites in plate {sorted(missing)[0]!r} "
            "and stands outside it: put it into the plate"
        )
    ordered = [*variable, *rest]
    values = log_prob.permute([d for d, _ in ordered] + squeezed)
    values = values.reshape(values.shape[: len(ordered)])
    return Factor(values, tuple(n for _, n in ordered), frozenset({node["name"]}))


class _SizeLimit(TorchDispatchMode):
    """Stops a run that makes a tensor too large to be worth it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most_elements()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and not func.is_view and out.numel() > self._most:
            raise NotSummable(
                f"listing all choices makes tensors of {out.numel():,} elements, and "
                f"{self._most:,} may be used"
            )
        return out
