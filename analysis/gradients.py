"""How good each method's gradient is: bias, variance and time against brute force."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..guides import BufferGuide, RouterGuide
from ..models.checks import check_count
from . import brute_force
from .brute_force import RouteTable, tabulate, tabulate_at
from .gradient_statistics import (
    LEAST_DRAWS,
    GradientStatistics,
    gradient_statistics,
)
from .importance_bound import Truth, flat_gradient, importance_gradient

if TYPE_CHECKING:
    import pandas as pd

    from ..inference import Method, Objective

TASK_EXAMPLES = 8  # of a task's training split, unless told
PLAIN_SAMPLES = 8
_WARM_UP = 10  # calls before any is counted: buffers fill
_TIMED = 30
_MOST_ROWS = 2048  # examples in one call


def gradient_report(
    model: Callable[..., Any],
    data: Any,
    methods: Sequence[str] | Mapping[str, Method] | None = None,
    draws: int = 2000,
    *,
    parameters: Iterable[Tensor] | None = None,
    n_examples: int | None = None,
    targets: Mapping[str, str] | None = None,
    copies: int | None = None,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Measure the gradients of methods against those of their objectives.

    The exact gradients come from brute force: the model is conditioned on each route.
    A method is measured against the objective its ``unbiased_for`` names; one that
    claims nothing against the router ELBO where its ``wiring`` speaks of an ELBO, else
    against the marginal: then its bias is the price of the method, not a fault.
    Methods are ranked among those of the same objective alone.

    All examples are one batch; nothing is trained. Schedules stand at their first step.
    The router's parameters (columns ``router_...``) are those that log p(a | x)
    depends on and log p(y | x, a) does not; a guide's own parameters count among all
    where the objective is the guide's.

    Args:
        model: A Pyro program, small enough to run once a route.
        data: A task (its training split), a split, or a tuple ``(x, y)``, ``(x,)``.
        methods: Names in ``METHODS`` (all of them by default), or methods by label.
        draws: Gradient draws a method; 20,000 for a proof. Where examples are
            independent, several copies of the data are one call, so that the numbers
            are means of ``copies`` draws each, at least 250 of them.
        parameters: Tensors to take gradients in; needed where the model is no
            ``nn.Module``.
        n_examples: The first so many examples; by default all, 8 of a task's.
        targets: By label ``"marginal"``, ``"elbo"`` or ``"importance"`` in place of
            what is said above.
        copies: Copies of the data in a call; 1 for methods that join the examples of a
            batch.
        seed: Of the draws.
        progress: Say on stderr which method is at work.

    Returns:
        A row a method: ``method``; ``target``; ``claim`` and ``verdict``; ``bias``,
        |E draw - g| / |g|, and ``bias_error``; ``squared_bias`` (debiased, relative)
        and its error; ``variance`` (trace of a draw's covariance); ``cosine`` of the
        mean to g; ``far``, the share of coordinates beyond 4 standard errors; ``time``
        of a draw in seconds (median, interleaved); ``relative_time`` and
        ``relative_cost``, variance x time, both to plain score function (the router as
        guide, 8 samples, no baseline); ``rank`` by it within the target; ``draws``;
        ``squared_norm`` |g|^2; the same for ``router_``. In ``.attrs``: ``left_out``,
        methods that do not apply, and why; ``refuted``, labels of methods that claim
        no bias and have one; ``n_routes``, ``n_examples``.

    Raises:
        ValueError: If the model has too many routes, or no method applies.
    """
    from pandas import DataFrame

    check_count("draws", draws, least=2)
    x, y = _examples(data, n_examples)
    bench = _Bench(model, x, y, parameters, targets or {}, draws, copies)
    with torch.random.fork_rng(devices=[]):
        contenders, left_out = _enter(bench, _chosen(methods), seed)
        plain = bench.enter("plain", _plain())
        seconds = _times([*contenders, plain], seed)
        rows = []
        for contender in [plain, *contenders]:
            if progress:
                print(f"gradients of {contender.label}", file=sys.stderr, flush=True)
            torch.manual_seed(seed)
            rows.append(bench.measure(contender, seconds[contender.label]))
    reference, *rows = rows
    table = _ranked(DataFrame(rows), reference)
    refuted = (table["claim"] == "unbiased") & (table["verdict"] == "biased")
    table.attrs = {
        "left_out": left_out,
        "refuted": list(table["method"][refuted]),
        "plain": {name: reference[name] for name in ("variance", "time", "bias")},
        "n_routes": len(bench.table.values),
        "n_examples": len(x),
    }
    return table


@dataclass
class _Contender:
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


class _Bench:
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
            copies = max(1, min(draws // LEAST_DRAWS, _MOST_ROWS // len(x)))
            joined = any(self.table.static) or not _repeats(model, *_repeated(x, y, 2))
            copies = 1 if joined else copies
        self._copies = copies
        self._truths: dict[str, Truth] = {}

    def enter(self, label: str, method: Method) -> _Contender:
        """Build a method for the examples.

        Raises:
            ValueError: If it does not apply.
        """
        objective = self._build(method, self._x, self._y)
        target = self._targets.get(label) or _target(method)
        contender = _Contender(
            label, method, objective, target, None, self.parameters, self._x, self._y
        )
        for _ in range(_WARM_UP):
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

    def truth(self, contender: _Contender) -> Truth:
        """The gradient of the contender's objective."""
        key = self._objective_name(contender)
        if contender.guide is not None or key not in self._truths:
            self._truths[key] = self._truth(contender)
        return self._truths[key]

    def measure(self, contender: _Contender, seconds: float) -> dict[str, Any]:
        """The row of a method."""
        worker, copies = contender, self._copies if contender.guide is None else 1
        if copies > 1:
            x, y = _repeated(self._x, self._y, copies)
            objective = self._build(contender.method, x, y)
            worker = _Contender(
                **{**vars(contender), "objective": objective, "x": x, "y": y}
            )
            for _ in range(_WARM_UP):
                worker.gradient()
        found = _draw(worker, -(-self._draws // copies))
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
        from ..inference import build

        return build(
            method,
            self._model,
            parameters=self._given,
            n_data=len(x),
            example=(x, y),
        )

    def _objective_name(self, contender: _Contender) -> str:
        name = contender.target
        if name == "importance":
            name = f"importance, S = {_n_samples(contender.method)}"
        return name if contender.guide is None else f"{name}, of its guide"

    def _truth(self, contender: _Contender) -> Truth:
        if contender.target == "importance":
            return importance_gradient(
                self.table,
                _n_samples(contender.method),
                contender.parameters,
                contender.guide,
            )
        if contender.target == "elbo":
            value = brute_force.elbo(self.table, contender.guide)
        else:
            value = brute_force.marginal(self.table)
        gradient = flat_gradient(value, contender.parameters)
        return Truth(gradient, torch.zeros_like(gradient))

    def _tabulate_guide(self, guide: Callable[..., Any]) -> RouteTable:
        from ..inference.program import takes_index

        index = (torch.arange(len(self._x)),) if takes_index(guide) else ()
        args = (self._x, self._y, *index)
        table = self.table
        return tabulate_at(guide, args, table.values, table.sizes, table.static)


def _enter(
    bench: _Bench, methods: Mapping[str, Method], seed: int
) -> tuple[list[_Contender], dict[str, str]]:
    """The methods that apply, and why the others do not.

    Raises:
        ValueError: If none does.
    """
    contenders, left_out = [], {}
    for label, method in methods.items():
        torch.manual_seed(seed)
        try:
            contenders.append(bench.enter(label, method))
        except (ValueError, TypeError, NotImplementedError) as error:
            left_out[label] = str(error)
    if not contenders:
        reasons = "; ".join(f"{label}: {why}" for label, why in left_out.items())
        raise ValueError(f"no method applies to this model: {reasons}")
    return contenders, left_out


def _draw(contender: _Contender, calls: int) -> Tensor:
    """(calls, D) draws; one alone where a call draws no random number."""
    before = torch.get_rng_state()
    first = contender.gradient()
    if torch.equal(before, torch.get_rng_state()):
        return first.unsqueeze(0)
    return torch.stack([first, *(contender.gradient() for _ in range(calls - 1))])


def _times(contenders: Sequence[_Contender], seed: int) -> dict[str, float]:
    """Median seconds of a draw, every method timed in turn."""
    seconds: dict[str, list[float]] = {c.label: [] for c in contenders}
    torch.manual_seed(seed)
    for _ in range(_TIMED):
        for contender in contenders:
            begun = time.perf_counter()
            contender.gradient()
            seconds[contender.label].append(time.perf_counter() - begun)
    return {label: statistics.median(found) for label, found in seconds.items()}


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


def _ranked(table: pd.DataFrame, plain: Mapping[str, Any]) -> pd.DataFrame:
    """The rows with what is relative to plain score function, ranked by it."""
    table = table.copy()
    table["relative_time"] = table["time"] / plain["time"]
    cost = table["variance"] * table["time"]
    table["relative_cost"] = cost / (plain["variance"] * plain["time"])
    ranks = table.groupby("target")["relative_cost"].rank(method="min")
    table["rank"] = ranks.astype("Int64")
    return table.sort_values(["target", "rank"], ignore_index=True)


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
            brute_force.run(model, (x, y), {})
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


def _plain() -> Method:
    from ..inference import ScoreFunction
    from ..inference.baselines import NoBaseline

    return ScoreFunction(n_samples=PLAIN_SAMPLES, baseline=NoBaseline())


def _chosen(methods: Sequence[str] | Mapping[str, Method] | None) -> dict[str, Method]:
    from ..inference import METHODS, get_method

    if isinstance(methods, str):
        raise TypeError(f"methods must be a sequence of names, got {methods!r}")
    if isinstance(methods, Mapping):
        return {label: get_method(method) for label, method in methods.items()}
    return {name: get_method(name) for name in (METHODS if methods is None else methods)}


def _examples(data: Any, n_examples: int | None) -> tuple[Tensor, Tensor | None]:
    """The first examples of a task, a split or a tuple."""
    if n_examples is not None:
        check_count("n_examples", n_examples)
    if hasattr(data, "train"):
        data = data.train
        n_examples = TASK_EXAMPLES if n_examples is None else n_examples
    x, y = data[0], data[1] if len(data) > 1 else None
    return x[:n_examples], None if y is None else y[:n_examples]
