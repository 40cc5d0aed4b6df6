"""The truth about small Pyro programs: every assignment, run one by one.

Nothing of the package is used here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from torch import Tensor


class Table(NamedTuple):
    """Log-probabilities at every assignment of the discrete sites' elements.

    Attributes:
        values: Site -> (A, *shape) its values.
        prior: (A,) of everything that is not observed.
        observed: Site -> (A, *batch) of each observed site, elementwise.
    """

    values: dict[str, Tensor]
    prior: Tensor
    observed: dict[str, Tensor]

    @property
    def joint(self) -> Tensor:
        """(A,) log p(y, a, w)."""
        return self.prior + sum(flat(o).sum(1) for o in self.observed.values())

    @property
    def posterior(self) -> Tensor:
        """(A,) p(a | y, w)."""
        return self.joint.softmax(0)

    def lp(self) -> Tensor:
        """() log p(y, w)."""
        return self.joint.logsumexp(0)

    def log_likelihood(self, of: Callable[[dict[str, Tensor]], Tensor]) -> Tensor:
        """Log p(what is picked | w): `of` gives (A, *elements) from the observed."""
        picked = of(self.observed)
        prior = self.prior.reshape(-1, *(1,) * (picked.dim() - 1))
        return (prior + picked).logsumexp(0) - self.prior.logsumexp(0)


def tabulate(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    discrete: Mapping[str, tuple[Tensor, tuple[int, ...]]],
    given: Mapping[str, Tensor],
) -> Table:
    """Run the program at every assignment.

    Args:
        model: The program.
        args: Its arguments.
        discrete: Site -> its support (M,) and its value's shape.
        given: The other latent sites' values.
    """
    names = list(discrete)
    sizes = [shape for _, shape in discrete.values()]
    counts = [int(torch.Size(shape).numel()) for shape in sizes]
    axes = [
        range(len(support))
        for (support, _), count in zip(discrete.values(), counts, strict=True)
        for _ in range(count)
    ]
    rows: list[dict[str, Tensor]] = []
    prior: list[Tensor] = []
    observed: list[dict[str, Tensor]] = []
    for choice in itertools.product(*axes):
        split = torch.tensor(choice).split(counts)
        values = {
            name: discrete[name][0][part].reshape(shape)
            for name, part, shape in zip(names, split, sizes, strict=True)
        }
        data = {**given, **values}
        trace = poutine.trace(pyro.condition(model, data=data)).get_trace(*args)
        terms = {}
        for name, node in trace.nodes.items():
            if node["type"] != "sample" or type(node["fn"]).__name__ == "_Subsample":
                continue
            if node["infer"].get("_deterministic"):
                continue
            term = node["fn"].log_prob(node["value"]).double()
            if node["mask"] is not None and name not in values:
                term = torch.where(torch.as_tensor(node["mask"]), term, 0.0)
            terms[name] = term
        rows.append(values)
        prior.append(sum(terms.pop(name).sum() for name in data))
        observed.append(terms)
    return Table(
        {name: torch.stack([row[name] for row in rows]) for name in names},
        torch.stack(prior),
        {name: torch.stack([row[name] for row in observed]) for name in observed[0]},
    )


def assignment_of(table: Table, drawn: Mapping[str, Tensor]) -> Tensor:
    """(n,) which row of the table each joint draw (n, *shape) is."""
    wanted = torch.cat([flat(v).double() for v in table.values.values()], 1)
    found = torch.cat([flat(drawn[name]).double() for name in table.values], 1)
    same = (found[:, None] == wanted[None]).all(-1)
    assert same.any(1).all(), "drawn values are not in the support"
    return same.int().argmax(1)


def flat(values: Tensor) -> Tensor:
    """(n, *shape) -> (n, size)."""
    return values.reshape(len(values), -1)
