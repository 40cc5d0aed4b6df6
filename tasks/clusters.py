"""Two clusters in the plane, one rotated, one scaled: the smallest routed task."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .base import Split, Task, TaskSpec
from .options import real, seed_in_range, whole
from .splitting import streams


@dataclass(frozen=True)
class Clusters(TaskSpec):
    """Two Gaussian clusters in 2-d; y is a rotation of the one, a scaling of the other.

    With c ~ Bernoulli(1/2) the cluster, which is the route:

        x = ((2 c - 1) separation / 2, 0) + spread * N(0, I)
        y = A_c x + noise * N(0, I),  A_0 = rotation by angle,  A_1 = scale * I

    The cluster is not part of x, it is only seen where x lies: with `spread` much
    smaller than `separation`, a linear router can tell it.

    Args:
        separation: Distance between the cluster centres, in units of x.
        spread: Standard deviation of a cluster, in units of x.
        angle: Rotation of cluster 0 about the origin, in degrees.
        scale: Factor on cluster 1.
        noise: Standard deviation of y given x and the route.
        n_train: Training examples.
        n_valid: Validation examples.
        n_test: Test examples.
        seed: Fixes the data.

    References:
        The toy problem of Kirsch, Kunze and Barber 2018, arXiv:1811.05249, in form; the
        numbers are ours.
    """

    summary: ClassVar[str] = "two Gaussian clusters, one rotated, the other scaled"

    separation: float = 3.0
    spread: float = 0.5
    angle: float = 90.0
    scale: float = 2.0
    noise: float = 0.1
    n_train: int = 1000
    n_valid: int = 500
    n_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        for name in ("separation", "spread", "noise"):
            real(name, getattr(self, name), 0.0)
        for name in ("angle", "scale"):
            real(name, getattr(self, name))
        for name in ("n_train", "n_valid", "n_test"):
            whole(name, getattr(self, name), 1)
        seed_in_range(self.seed)

    def maps(self) -> Float[Tensor, "2 2 2"]:
        """The matrix of each route, float64: the rotation, then the scaling."""
        angle = math.radians(self.angle)
        cos, sin = math.cos(angle), math.sin(angle)
        maps = [[[cos, -sin], [sin, cos]], [[self.scale, 0.0], [0.0, self.scale]]]
        return torch.tensor(maps, dtype=torch.float64)

    def true_mean(
        self, x: Float[Tensor, "n 2"], routes: Int[Tensor, "n 1"]
    ) -> Float[Tensor, "n 2"]:
        """E[y | x, routes]: the matrix of the route times x."""
        mean = (self.maps()[routes[:, 0]] * x.double().unsqueeze(-2)).sum(-1)
        return mean.to(x.dtype)

    def load(self) -> Task:
        """Generates the splits."""
        train, valid, test = (
            self._draw(n, rng)
            for n, rng in zip(
                (self.n_train, self.n_valid, self.n_test),
                streams(self.seed, 3),
                strict=True,
            )
        )
        return Task(
            name="clusters",
            train=train,
            valid=valid,
            test=test,
            head="normal",
            out_features=2,
            description=(
                f"two clusters in the plane: one rotated by {self.angle:g} degrees, "
                f"the other scaled by {self.scale:g}"
            ),
            network={"n_layers": 1, "n_modules": 2, "hidden_features": 8},
            feature_names=("x0", "x1"),
            true_mean=self.true_mean,
        )

    def _draw(self, n: int, rng: np.random.Generator) -> Split:
        routes = rng.integers(2, size=(n, 1))
        centre = np.concatenate([routes - 0.5, np.zeros((n, 1))], axis=1)
        x = self.separation * centre + self.spread * rng.standard_normal((n, 2))
        inputs = torch.from_numpy(x.astype(np.float32))
        decisions = torch.from_numpy(routes)
        noise = torch.from_numpy(self.noise * rng.standard_normal((n, 2)))
        y = self.true_mean(inputs, decisions) + noise.float()
        return Split(inputs, y, decisions)
