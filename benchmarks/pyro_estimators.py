"""Pyro's own estimators as methods, for the league: the router is its own guide."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import pyro
import torch
from pyro import infer

from latentroute.guides import RouterGuide
from latentroute.inference import Method, Objective

Kind = Literal[
    "Trace_ELBO", "TraceGraph_ELBO", "RenyiELBO", "ReweightedWakeSleep", "TraceTMC_ELBO"
]
CLAIMS: dict[Kind, str | None] = {
    "Trace_ELBO": "elbo",
    "TraceGraph_ELBO": "elbo",
    "RenyiELBO": "importance",
    "ReweightedWakeSleep": None,  # the marginal's, as samples grow
    "TraceTMC_ELBO": None,
}


@dataclass(frozen=True)
class PyroEstimator(Method):
    """An ELBO of Pyro's with S particles; what it claims is Pyro's documentation's."""

    kind: Kind = "Trace_ELBO"
    n_samples: int = 4

    summary: ClassVar[str] = "an estimator of Pyro's"
    wiring: ClassVar[str] = "marginal"

    @property
    def unbiased_for(self) -> str | None:  # type: ignore[override]
        """What it is documented to estimate."""
        return CLAIMS[self.kind]

    def objective(
        self, model: Any, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """The objective of the model with its router as guide."""
        return _PyroObjective(self, model, **options)


class _PyroObjective(Objective):
    def __init__(self, method: PyroEstimator, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        self._guide = RouterGuide(model)
        if method.kind == "TraceTMC_ELBO":
            self._guide = infer.config_enumerate(
                self._guide, "parallel", expand=False, num_samples=method.n_samples
            )
            self._elbo = infer.TraceTMC_ELBO(max_plate_nesting=1)
            return
        particles: dict[str, Any] = {
            "num_particles": method.n_samples,
            "vectorize_particles": True,
            "max_plate_nesting": 1,
        }
        if method.kind == "RenyiELBO":
            particles["alpha"] = 0.0
        self._elbo = getattr(infer, method.kind)(**particles)

    def _loss(self, x: Any, y: Any, index: Any) -> torch.Tensor:
        """A surrogate with the gradient that Pyro leaves in ``.grad``."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for p in parameters:
            p.grad = None

        def model(x: Any, y: Any) -> Any:
            pyro.module("model", self.model)  # without it Pyro takes no gradient
            return self.model(x, y)

        with pyro.get_param_store().scope(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            value = self._elbo.loss_and_grads(model, self._guide, x, y)
        value = value[0] if isinstance(value, tuple) else value  # wake and sleep
        surrogate = parameters[0].new_zeros(())
        for p in parameters:
            if p.grad is not None:
                surrogate = surrogate + (p.grad * p).sum()
            p.grad = None
        loss = torch.as_tensor(value, dtype=surrogate.dtype).detach()
        return (surrogate - surrogate.detach() + loss) / len(x)
