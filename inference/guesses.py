"""Routes guessed from the inputs alone, by clusters that routers could tell apart."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_RESTARTS = 8
_STEPS = 400
_ROWS = 1024  # of a step
_LR = 0.03
_BALANCE = 4.0  # weight of H(A_l) while climbing
_DECAY = 0.01  # lambda: of squared weights on whitened inputs
_FLAT = 1e-6  # of the largest variance: a direction without any


@torch.enable_grad()
def guess_routes(
    x: Float[Tensor, "n *features"], n_choices: Sequence[int], *, seed: int
) -> Int[Tensor, "n sites"]:
    r"""A labelling of the examples for each site, from their inputs.

    .. math::
        \max_W \sum_l I(A_l; X) - \sum_{k<l} I(A_k; A_l) - \lambda \lVert W \rVert^2

    with p(a_l | x) a softmax of a linear function of whitened x: clusters that are
    balanced, told apart by wide margins, and different from site to site. The best of
    several starts by this objective. They climb 4 H(A_l) - k H(A_l | X), k rising from
    0 to 1, in place of the information: with equal weights nothing draws examples to a
    label that has none. Which labelling belongs to which site, and which label to which
    module, no input can say.

    Args:
        x: Inputs; all but the first dimension are flattened.
        n_choices: M_l of each site.
        seed: Of the starts and of the batches.

    Returns:
        (N, L) labels 0 .. M_l - 1.

    Cost: 400 steps of eight times L linear classifiers on at most 1,024 rows; L^2 M^2
    numbers a row for the pairs.

    References:
        Krause, Perona, Gomes 2010, Discriminative clustering by regularized information
        maximization, equations 2 and 6; Hu et al. 2017, arXiv:1702.08720, equation 7
        (the weight 4); the term for pairs of sites and the ramp are ours.
    """
    generator = torch.Generator().manual_seed(seed)
    white = whitened(x.flatten(1))
    n, width, most = len(white), white.shape[1], max(n_choices)
    start = torch.rand(_RESTARTS, len(n_choices), width, most, generator=generator)
    weight = ((2 * start - 1) / math.sqrt(width)).to(x.device).requires_grad_()
    missing = torch.arange(most) >= torch.tensor(n_choices).unsqueeze(-1)
    shut = torch.zeros(missing.shape).masked_fill(missing, -math.inf).to(x.device)
    offset = weight.new_zeros(_RESTARTS, len(n_choices), 1, most).requires_grad_()

    def probs(rows: Tensor) -> Tensor:
        logits = torch.einsum("nd,rldm->rlnm", rows, weight) + offset
        return torch.softmax(logits + shut.unsqueeze(1), -1)

    optimiser = torch.optim.Adam([weight, offset], lr=_LR)
    for step in range(_STEPS):
        rows = torch.randperm(n, generator=generator)[:_ROWS].to(x.device)
        optimiser.zero_grad()
        decay = _DECAY * weight.square().sum((1, 2, 3))
        gain = clarity(probs(white[rows]), _BALANCE, step / _STEPS)
        (decay - gain).sum().backward()
        optimiser.step()
    with torch.no_grad():
        rows = torch.randperm(n, generator=generator)[: 4 * _ROWS].to(x.device)
        decay = _DECAY * weight.square().sum((1, 2, 3))
        best = int((clarity(probs(white[rows])) - decay).argmax())
        logits = torch.einsum("nd,ldm->nlm", white, weight[best]) + offset[best, :, 0]
        return (logits + shut).argmax(-1)


def clarity(
    probs: Float[Tensor, "starts sites n m"],
    balance: float = 1.0,
    certainty: float = 1.0,
) -> Float[Tensor, " starts"]:
    """sum_l I(A_l; X) less the information of every pair of sites, in nats.

    ``balance`` multiplies H(A_l), ``certainty`` H(A_l | X).
    """
    use = probs.mean(2)  # (R, L, M)
    information = balance * _entropy(use) - certainty * _entropy(probs).mean(-1)
    pairs = torch.einsum("rlnm,rknp->rlkmp", probs, probs) / probs.shape[2]
    apart = _entropy(use).unsqueeze(2) + _entropy(use).unsqueeze(1)
    shared = apart - _entropy(pairs.flatten(-2))
    return information.sum(1) - torch.triu(shared, diagonal=1).sum((1, 2))


def whitened(x: Float[Tensor, "n d"]) -> Float[Tensor, "n k"]:
    """x with mean 0 and covariance I, in the directions in which it varies."""
    centred = (x - x.mean(0)).double()
    variance, axes = torch.linalg.eigh(centred.T @ centred / len(x))
    kept = variance > _FLAT * variance[-1].clamp_min(torch.finfo(torch.double).tiny)
    white: Tensor = centred @ axes[:, kept] / variance[kept].sqrt()
    return white.float()


def orders(n_choices: Sequence[int], limit: int, seed: int) -> list[tuple[int, ...]]:
    """Ways to hand labellings to sites with as many choices, in random order.

    All of them, or ``limit`` different ones. An order's entry l is the labelling that
    site l gets.
    """
    rng = random.Random(seed)
    groups = [
        [i for i, m in enumerate(n_choices) if m == choices]
        for choices in dict.fromkeys(n_choices)
    ]
    count = math.prod(math.factorial(len(group)) for group in groups)
    if count <= limit:
        found = [
            _arranged(groups, moved)
            for moved in itertools.product(*map(itertools.permutations, groups))
        ]
        rng.shuffle(found)
        return found
    chosen: dict[tuple[int, ...], None] = {}
    while len(chosen) < limit:
        moved = [rng.sample(group, len(group)) for group in groups]
        chosen.setdefault(_arranged(groups, moved))
    return list(chosen)


def _arranged(
    groups: Sequence[Sequence[int]], moved: Sequence[Sequence[int]]
) -> tuple[int, ...]:
    places = dict(zip(itertools.chain(*groups), itertools.chain(*moved), strict=True))
    return tuple(places[i] for i in range(len(places)))


def _entropy(probs: Tensor) -> Tensor:
    tiny = torch.finfo(probs.dtype).tiny
    return -(probs * probs.clamp_min(tiny).log()).sum(-1)
