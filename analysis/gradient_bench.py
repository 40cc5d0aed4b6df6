"""Methods at work on the same few examples, each against its own exact gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..guides import BufferGuide, RouterGuide
from .brute_force import RouteTable, elbo, marginal, run, tabulate, tabulate_at
from .gradient_statistics import LEAST_DRAWS, GradientStatistics, gradient_statistics
from .importance_bound import Truth, flat_gradient, importance_gradient

if TYPE_CHECKING:
    from ..inference.objective import Method, Objective

WARM_UP = 10  # calls before any is counted: buffers fill
MOST_ROWS = 2048  # examples in one call


@dataclass
class Contender:
    """A method at work on the examples."""

    label: str
    method: Method
    objective: Objective
    target: str
    guide: RouteTable | None
    parameters: list[Tensor]
    x: Tensor
    y: Tensor | None

    def gradient(self) -> Tensor:
        """One draw of the gradient of the objective, which is maximised."""
        self.objective.step = 0  # schedules stay where they start
        loss = self.objective(self.x, self.y)
        if not loss.requires_grad:
            raise ValueError("its loss has no gradient: no estimator of one")
        return -flat_gradient(loss, self.parameters)

    def draw(self, calls: int) -> Tensor:
        """(calls, D) draws; one alone where a call takes no random number."""
        before = torch.get_rng_state()
        first = self.gradient()
        on_cpu = first.device.type == "cpu"  # a GPU has a stream of its own
        if on_cpu and torch.equal(before, torch.get_rng_state()):
            return first.unsqueeze(0)
        return torch.stack([first, *(self.gradient() for _ in range(calls - 1))])


class Bench:
    """What all methods are measured on: the model, the examples, the truth."""

    def __init__(
        self,
        model: Callable[..., Any],
        x: Tensor,
        y: Tensor | None,
        parameters: Iterable[Tensor] | None,
        targets: Mapping[str, str],
        draws: int,
        copies: int | None,
    ) -> None:
        from ..inference.program import takes_index

        if parameters is None and not isinstance(model, nn.Module):
            raise ValueError(
                "the model is no nn.Module: pass parameters=, the tensors to take "
                "gradients in"
            )
        self._model, self._x, self._y = model, x, y
        self._given = None if parameters is None else list(parameters)
        own = model.parameters() if isinstance(model, nn.Module) else ()
        chosen = own if self._given is None else self._given
        self.parameters = [p for p in chosen if p.requires_grad]
        index = (torch.arange(len(x)),) if takes_index(model) else ()
        self._args = (x, y, *index)
        self.table = tabulate(model, *self._args)
        self._router = _router_coordinates(self.table, self.parameters)
        self._targets, self._draws = targets, draws
        if copies is None:
            copies = max(1, min(draws // LEAST_DRAWS, MOST_ROWS // len(x)))
            joined = any(self.table.static) or not _repeats(model, *_repeated(x, y, 2))
            copies = 1 if joined else copies
        self._copies = copies
        self._truths: dict[str, Truth] = {}

    def enter(self, label: str, method: Method) -> Contender:
        """Build a method for the examples.

        Raises:
            ValueError: If it does not apply.
        """
        objective = self._build(method, self._x, self._y)
        target = self._targets.get(label) or _target(method)
        contender = Contender(
            label, method, objective, target, None, self.parameters, self._x, self._y
        )
        for _ in range(WARM_UP):
            contender.gradient()
        guide = _own_guide(objective) if target != "marginal" else None
        if guide is not None:
            contender.guide = self._tabulate_guide(guide)
            known = {id(p) for p in self.parameters}
            extra = guide.parameters() if isinstance(guide, nn.Module) else ()
            contender.parameters = self.parameters + [
                p for p in extra if id(p) not in known and p.requires_grad
            ]
        self.truth(contender)
        return contender

    def truth(self, contender: Contender) -> Truth:
        """The gradient of the contender's objective."""
        key = self._objective_name(contender)
        if contender.guide is not None or key not in self._truths:
            self._truths[key] = self._truth(contender)
        return self._truths[key]

    def measure(self, contender: Contender, seconds: float) -> dict[str, Any]:
        """The row of a method."""
        worker, copies = contender, self._copies if contender.guide is None else 1
        if copies > 1:
            x, y = _repeated(self._x, self._y, copies)
            objective = self._build(contender.method, x, y)
            worker = replace(contender, objective=objective, x=x, y=y)
            for _ in range(WARM_UP):
                worker.gradient()
        found = worker.draw(-(-self._draws // copies))
        truth = self.truth(contender)
        everything = gradient_statistics(found, truth, copies=copies)
        columns = self._router.to(found.device)
        routers = gradient_statistics(
            found[:, columns], Truth(*(t[columns] for t in truth)), copies=copies
        )
        return {
            "method": contender.label,
            "target": self._objective_name(contender),
            "claim": "biased" if contender.method.unbiased_for is None else "unbiased",
            **_row(everything),
            "time": seconds,
            "draws": len(found) * copies,
            **{f"router_{name}": value for name, value in _row(routers).items()},
        }

    def _build(self, method: Method, x: Tensor, y: Tensor | None) -> Objective:
        from ..inference.methods import build

        return build(
            method,
            self._model,
            parameters=self._given,
            n_data=len(x),
            example=(x, y),
        )

    def _objective_name(self, contender: Contender) -> str:
        name = contender.target
        if name == "importance":
            name = f"importance, S = {_n_samples(contender.method)}"
        return name if contender.guide is None else f"{name}, of its guide"

    def _truth(self, contender: Contender) -> Truth:
        if contender.target == "importance":
            return importance_gradient(
                self.table,
                _n_samples(contender.method),
                contender.parameters,
                contender.guide,
            )
        if contender.target == "elbo":
            value = elbo(self.table, contender.guide)
        else:
            value = marginal(self.table)
        gradient = flat_gradient(value, contender.parameters)
        return Truth(gradient, torch.zeros_like(gradient))

    def _tabulate_guide(self, guide: Callable[..., Any]) -> RouteTable:
        from ..inference.program import takes_index

        index = (torch.arange(len(self._x)),) if takes_index(guide) else ()
        args = (self._x, self._y, *index)
        table = self.table
        try:
            return tabulate_at(guide, args, table.values, table.sizes, table.static)
        except NotImplementedError as error:
            raise ValueError(
                "its guide is no program over the routes, so that brute force has no "
                "truth for it"
            ) from error


def _row(found: GradientStatistics) -> dict[str, Any]:
    return {
        "verdict": found.verdict,
        "bias": found.bias,
        "bias_error": found.bias_error,
        "squared_bias": found.squared_bias,
        "squared_bias_error": found.squared_bias_error,
        "variance": found.variance,
        "cosine": found.cosine,
        "far": found.far,
        "squared_norm": found.squared_norm,
    }


def _router_coordinates(table: RouteTable, parameters: Sequence[Tensor]) -> Tensor:
    """Which coordinates of the gradient are the router's alone."""
    n_routes, n = table.prior.shape
    generator = torch.Generator().manual_seed(0)
    weight = torch.rand(n_routes, n, generator=generator).to(table.prior)
    moved = []
    for terms, outside in (
        (table.prior, table.static_prior),
        (table.likelihood, table.static_likelihood),
    ):
        value = (weight * (terms + outside.unsqueeze(-1))).sum()
        used = [False] * len(parameters)
        if value.requires_grad:
            parts = torch.autograd.grad(
                value, list(parameters), allow_unused=True, retain_graph=True
            )
            used = [g is not None and bool(g.any()) for g in parts]
        moved.append(used)
    flags = [
        torch.full((p.numel(),), in_prior and not in_likelihood)
        for p, in_prior, in_likelihood in zip(parameters, *moved, strict=True)
    ]
    return torch.cat(flags).nonzero().squeeze(-1)


def _repeated(x: Tensor, y: Tensor | None, copies: int) -> tuple[Tensor, Tensor | None]:
    """Copies of the examples side by side: each draws routes of its own."""
    rows = torch.arange(len(x)).repeat(copies)
    return x[rows], None if y is None else y[rows]


def _repeats(model: Callable[..., Any], x: Tensor, y: Tensor | None) -> bool:
    """Whether a program takes more rows than the data have (a table of them cannot)."""
    try:
        with torch.no_grad():
            run(model, (x, y), {})
    except (ValueError, IndexError, RuntimeError):
        return False
    return True


def _target(method: Method) -> str:
    """What a method is measured against."""
    if method.unbiased_for is not None:
        return method.unbiased_for
    return "elbo" if "ELBO" in method.wiring else "marginal"


def _own_guide(objective: Objective) -> Callable[..., Any] | None:
    """A guide that proposes in the router's place."""
    guide = getattr(objective, "guide", None)
    if guide is None or isinstance(guide, RouterGuide | BufferGuide):
        return None
    chosen: Callable[..., Any] = guide
    return chosen


def _n_samples(method: Method) -> int:
    return int(getattr(method, "n_samples"))  # noqa: B009 (a field of such methods)
