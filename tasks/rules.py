"""Rule-based data with known modules, after Mittal, Bengio and Lajoie."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Split, Task, TaskSpec
from .options import choice, seed_in_range, whole
from .splitting import streams

Kind = Literal["regression", "classification"]
OOD_SCALE = 2.0


@dataclass(frozen=True)
class Rules(TaskSpec):
    """One of R linear rules, named in x, combines two numbers (the paper's MLP task).

    With alpha_r, beta_r ~ N(0, 1) fixed, the rule r uniform on 0..R-1 (the route), and
    x1, x2 ~ N(0, 1):

        score = alpha_r x1 + beta_r x2
        y = score (regression, normal head), or
        y = 1 where score > 0, else 0 (classification, bernoulli head with one output)

    Columns of x: x1, x2, then the one-hot rule, R columns. `extra["ood"]` has x1 and x2
    scaled by 2, the one-hot as it is, and `n_test` examples. y has no noise, so with a
    normal head the log-likelihood grows as long as the fit gets better.

    It differs from the paper: training, validation and test sets are fixed and finite,
    where the paper draws fresh examples at every step and has no validation set; any R
    in 2..32 is accepted, where the paper uses powers of two; the coefficients come from
    generators of our own, so they aren't those of the paper's code for the same seed.

    Args:
        n_rules: R, in 2..32.
        kind: "regression" or "classification".
        n_train: Training examples.
        n_valid: Validation examples.
        n_test: Test examples, and as many out of distribution.
        seed: Fixes the coefficients and the data.

    References:
        Mittal, Bengio, Lajoie 2022, Is a modular architecture enough?,
        arXiv:2206.02713, section 3 (MLP).
    """

    summary: ClassVar[str] = "linear rules named in x, with an out-of-distribution set"

    n_rules: int = 4
    kind: Kind = "regression"
    n_train: int = 5000
    n_valid: int = 1000
    n_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        whole("n_rules", self.n_rules, 2, 32)
        choice("kind", self.kind, get_args(Kind))
        for name in ("n_train", "n_valid", "n_test"):
            whole(name, getattr(self, name), 1)
        seed_in_range(self.seed)

    def coefficients(self) -> Float[Tensor, "rules 2"]:
        """alpha_r and beta_r of each rule, float64."""
        rng = streams(self.seed, 5)[0]
        return torch.from_numpy(rng.standard_normal((self.n_rules, 2)))

    def true_mean(
        self, x: Float[Tensor, "n columns"], routes: Int[Tensor, "n 1"]
    ) -> Float[Tensor, "n 1"]:
        """E[y | x, routes], which is y itself: there is no noise."""
        score = (self.coefficients()[routes[:, 0]] * x[:, :2].double()).sum(-1, True)
        return (score > 0 if self.kind == "classification" else score).to(x.dtype)

    def load(self) -> Task:
        """Generates the rules and the splits."""
        rngs = streams(self.seed, 5)
        return Task(
            name="rules",
            train=self._draw(self.n_train, rngs[1]),
            valid=self._draw(self.n_valid, rngs[2]),
            test=self._draw(self.n_test, rngs[3]),
            extra={"ood": self._draw(self.n_test, rngs[4], scale=OOD_SCALE)},
            head="normal" if self.kind == "regression" else "bernoulli",
            out_features=1,
            description=f"{self.kind} by {self.n_rules} linear rules, named in x",
            network={
                "n_layers": 1,
                "n_modules": self.n_rules,
                "hidden_features": 32,
            },
            feature_names=("x1", "x2", *(f"rule{r}" for r in range(self.n_rules))),
            true_mean=self.true_mean,
        )

    def _draw(self, n: int, rng: np.random.Generator, scale: float = 1.0) -> Split:
        routes = rng.integers(self.n_rules, size=(n, 1))
        numbers = scale * rng.standard_normal((n, 2))
        x = np.concatenate([numbers, np.eye(self.n_rules)[routes[:, 0]]], axis=1)
        inputs = torch.from_numpy(x.astype(np.float32))
        decisions = torch.from_numpy(routes)
        return Split(inputs, self.true_mean(inputs, decisions), decisions)
