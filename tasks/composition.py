"""A chain of hidden functions, each picked out of a pool by a noisy context."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Split, Task, TaskSpec
from .options import real, seed_in_range, whole
from .splitting import streams

GAIN = 1.5


@dataclass(frozen=True)
class Composition(TaskSpec):
    """y is a chain of L functions out of M; a noisy context tells which, per decision.

    With Q_0 .. Q_{M-1} random orthogonal matrices, a_l uniform on 0..M-1 and
    independent, z_0 ~ N(0, I):

        z_{l+1} = tanh(1.5 Q_{a_l} z_l),   y = z_L + noise * N(0, I)
        context_l = onehot(a_l) + context_noise * N(0, I)

    Columns of x: the first `features` are the input z_0; then come L blocks of M
    columns, block l being context_l (`context_columns(l)` gives its slice). All M
    functions are shared by all L decisions. The routes of a layered network with a pool
    of modules per layer match column by column, up to a relabelling within each layer.

    Args:
        n_layers: L, functions in the chain.
        n_modules: M, functions in the pool.
        features: Width of the input, of every z and of y.
        noise: Standard deviation of y given z_L.
        context_noise: Standard deviation added to each entry of the one-hot context; at
            0.3 about one in a hundred pairs of functions is told apart wrongly, at 0.5
            about one in thirteen.
        n_train: Training examples.
        n_valid: Validation examples.
        n_test: Test examples.
        seed: Fixes the functions and the data.
    """

    summary: ClassVar[str] = "a chain of hidden functions that a noisy context selects"

    n_layers: int = 2
    n_modules: int = 3
    features: int = 8
    noise: float = 0.1
    context_noise: float = 0.3
    n_train: int = 2000
    n_valid: int = 500
    n_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        for name in ("n_layers", "n_modules", "features"):
            whole(name, getattr(self, name), 1)
        for name in ("noise", "context_noise"):
            real(name, getattr(self, name), 0.0)
        for name in ("n_train", "n_valid", "n_test"):
            whole(name, getattr(self, name), 1)
        seed_in_range(self.seed)

    def context_columns(self, layer: int) -> slice:
        """The columns of x that hold the context of decision `layer`."""
        start = self.features + whole("layer", layer, 0, self.n_layers - 1) * (
            self.n_modules
        )
        return slice(start, start + self.n_modules)

    def maps(self) -> Float[Tensor, "modules features features"]:
        """The orthogonal matrices Q, float64, uniform over the orthogonal group."""
        rng = streams(self.seed, 4)[0]
        draws = rng.standard_normal((self.n_modules, self.features, self.features))
        q, r = np.linalg.qr(draws)
        # without the signs of r's diagonal, q would not be uniform
        signs = np.sign(np.diagonal(r, axis1=1, axis2=2))
        return torch.from_numpy(q * signs[:, None, :])

    def true_mean(
        self, x: Float[Tensor, "n columns"], routes: Int[Tensor, "n layers"]
    ) -> Float[Tensor, "n features"]:
        """E[y | x, routes]: the chain without its noise; the context is not read."""
        maps = self.maps()
        z = x[:, : self.features].double()
        for layer in range(self.n_layers):
            # a sum instead of a matrix product: its bits depend on no BLAS
            z = torch.tanh(GAIN * (maps[routes[:, layer]] * z.unsqueeze(-2)).sum(-1))
        return z.to(x.dtype)

    def load(self) -> Task:
        """Generates the functions and the splits."""
        train, valid, test = (
            self._draw(n, rng)
            for n, rng in zip(
                (self.n_train, self.n_valid, self.n_test),
                streams(self.seed, 4)[1:],
                strict=True,
            )
        )
        inputs = [f"z{i}" for i in range(self.features)]
        context = [
            f"context{layer}_{m}"
            for layer in range(self.n_layers)
            for m in range(self.n_modules)
        ]
        return Task(
            name="composition",
            train=train,
            valid=valid,
            test=test,
            head="normal",
            out_features=self.features,
            description=(
                f"a chain of {self.n_layers} functions, each one of {self.n_modules}, "
                "told by a noisy context"
            ),
            network={
                "n_layers": self.n_layers,
                "n_modules": self.n_modules,
                "hidden_features": 4 * self.features,
                "router_input": "input",
            },
            feature_names=(*inputs, *context),
            true_mean=self.true_mean,
        )

    def _draw(self, n: int, rng: np.random.Generator) -> Split:
        routes = rng.integers(self.n_modules, size=(n, self.n_layers))
        z = rng.standard_normal((n, self.features))
        onehot = np.eye(self.n_modules)[routes]  # (n, layers, modules)
        context = onehot + self.context_noise * rng.standard_normal(onehot.shape)
        x = np.concatenate([z, context.reshape(n, -1)], axis=1)
        inputs = torch.from_numpy(x.astype(np.float32))
        decisions = torch.from_numpy(routes)
        noise = torch.from_numpy(self.noise * rng.standard_normal((n, self.features)))
        y = self.true_mean(inputs, decisions) + noise.float()
        return Split(inputs, y, decisions)
