"""The reference of the speed benchmarks: the same mathematics in plain torch.

No Pyro, no library: what one would write by hand for a layered network with one module
a layer, routers that read the activation and a categorical head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Network(nn.Module):
    """Encoder, L layers of M affine tanh modules with a linear router each, head."""

    def __init__(
        self, into: int, classes: int, *, n_layers: int, n_modules: int, hidden: int
    ) -> None:
        super().__init__()
        self.encoder = nn.Linear(into, hidden)
        scale = hidden**-0.5
        self.weights = nn.ParameterList(
            torch.randn(n_modules, hidden, hidden) * scale for _ in range(n_layers)
        )
        self.biases = nn.ParameterList(
            torch.zeros(n_modules, hidden) for _ in range(n_layers)
        )
        self.routers = nn.ModuleList(
            nn.Linear(hidden, n_modules) for _ in range(n_layers)
        )
        self.head = nn.Linear(hidden, classes)


def exact_loss(net: Network, x: Tensor, y: Tensor) -> Tensor:
    """Minus the mean log p(y | x), every route enumerated."""
    z = net.encoder(x).unsqueeze(0)  # (routes, N, D)
    log_prior = z.new_zeros(1, len(x))  # (routes, N)
    for weight, bias, router in zip(net.weights, net.biases, net.routers, strict=True):
        log_p = router(z).log_softmax(-1)  # (routes, N, M)
        log_prior = (log_prior.unsqueeze(-1) + log_p).movedim(-1, 0).flatten(0, 1)
        n_modules, n_routes = len(weight), len(z)
        rows = z.reshape(1, -1, z.shape[-1]).expand(n_modules, -1, -1)
        every = torch.baddbmm(bias.unsqueeze(1), rows, weight).tanh()
        z = every.reshape(n_modules * n_routes, len(x), -1)
    log_lik = net.head(z).log_softmax(-1)
    at_y = log_lik.gather(-1, y.expand(len(z), -1).unsqueeze(-1)).squeeze(-1)
    return -torch.logsumexp(log_prior + at_y, 0).mean()


def score_function_loss(net: Network, x: Tensor, y: Tensor, n_samples: int) -> Tensor:
    """Minus the router-as-guide ELBO, S routes sampled, leave-one-out baseline."""
    z = net.encoder(x).expand(n_samples, -1, -1)  # (S, N, D)
    log_q = z.new_zeros(n_samples, len(x))
    for weight, bias, router in zip(net.weights, net.biases, net.routers, strict=True):
        log_p = router(z).log_softmax(-1)
        route = torch.multinomial(log_p.detach().exp().flatten(0, 1), 1)
        route = route.reshape(n_samples, -1)
        log_q = log_q + log_p.gather(-1, route.unsqueeze(-1)).squeeze(-1)
        rows = z.reshape(-1, z.shape[-1])
        z = sorted_affine(rows, route.flatten(), weight, bias).tanh().view_as(z)
    log_lik = net.head(z).log_softmax(-1)
    at_y = log_lik.gather(-1, y.expand(n_samples, -1).unsqueeze(-1)).squeeze(-1)
    reward = at_y.detach()
    baseline = (reward.sum(0) - reward) / (n_samples - 1)
    loss: Tensor = -(at_y + (reward - baseline) * log_q).mean()
    return loss


def sorted_affine(rows: Tensor, module: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each row through its own module: rows sorted by module, one grouped product."""
    module, order = module.sort()
    ends = torch.bincount(module, minlength=len(weight)).cumsum(0).to(torch.int32)
    out = torch.nn.functional.grouped_mm(rows[order], weight, offs=ends) + bias[module]
    back = torch.empty_like(order)
    back[order] = torch.arange(len(order), device=order.device)
    return out[back]
