"""What a modular language model does with text: perplexity, modules, their words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..inference.entropies import router_entropies
from ..inference.evaluate import evaluation_mode
from ..inference.program import RoutedProgram
from ..inference.random import RandomStream
from ..models.checks import check_count
from ..models.routing import Record, Site

_CHUNK = 128  # windows read at once


class Reading(NamedTuple):
    """What a model did with N windows of T words, routed word by word.

    Attributes:
        log_lik: (N,) log p(y | x, a) of the routes taken, or of the mixture.
        use: (N, T, M) the share of each module in a step, sum 1.
        router_probs: (N, T, K, M) p(a_t | z_t) along the routes taken.
    """

    log_lik: Float[Tensor, " windows"]
    use: Float[Tensor, "windows steps modules"]
    router_probs: Float[Tensor, "windows steps slots modules"]

    @property
    def perplexity(self) -> float:
        """exp(-mean log p / T)."""
        return math.exp(-self.log_lik.double().mean().item() / self.use.shape[1])

    @property
    def h_a(self) -> float:
        """H(A_t | A_<t, X) in nats: the routers' mean entropy along the routes."""
        return self._entropies()[0]

    @property
    def h_b(self) -> float:
        """The entropy in nats of the routers' mean probabilities over all words."""
        return self._entropies()[1]

    @property
    def shares(self) -> Float[Tensor, " modules"]:
        """Each module's share of all steps."""
        return self.use.double().mean((0, 1))

    def _entropies(self) -> tuple[float, float]:
        """Slots averaged, and steps pooled, as all have the same modules."""
        h_a, h_b = router_entropies(self.router_probs.double().flatten(0, 1))
        return h_a.mean().item(), h_b.mean().item()


@torch.no_grad()
def read_greedily(
    model: Callable[..., Any], x: Tensor, y: Tensor, *, k: int = 1
) -> Reading:
    """Read windows, each decision the likeliest choice of its router.

    Such routes make a language model of their own, p(y | x, a(x)): each a_t looks at
    x_{<=t} alone. Kirsch et al. (arXiv:1811.05249) test their networks so. Cost: one
    run.

    Args:
        model: A program of routing sites in the order of steps, and K slots within a
            step, all of M choices, such as :class:`~latentroute.models.ModularGRU`.
        x: (N, T) words.
        y: (N, T) the words that follow.
        k: K, slots of a step.
    """
    check_count("k", k)

    def likeliest(site: Site) -> Tensor | None:
        return site.fn.logits.argmax(-1) if "route" in site.infer else None

    def read(x: Tensor, y: Tensor) -> Reading:
        record = Record(likeliest)
        record.run(model, x, y)
        routed = [s for s in record.sites.values() if "route" in s.infer]
        log_lik = sum(
            s.fn.log_prob(s.value) for s in record.sites.values() if s.observed
        )
        probs = torch.stack([s.fn.probs for s in routed], 1)  # (N, T K, M)
        routes = torch.stack([s.value for s in routed], 1)
        chosen = torch.nn.functional.one_hot(routes, probs.shape[-1]).to(probs)
        use = chosen.unflatten(1, (-1, k)).mean(2)
        return Reading(torch.as_tensor(log_lik), use, probs.unflatten(1, (-1, k)))

    return _in_chunks(model, read, x, y)


@torch.no_grad()
def read_mixed(model: Callable[..., Any], x: Tensor, y: Tensor, *, k: int) -> Reading:
    """Read windows with the mixture of the k likeliest modules at each step.

    The gate of ``noisy-top-k`` without its noise: the softmax over the k highest
    scores. It is what that method trains; with k = 1 it is :func:`read_greedily`.
    Cost: one run, of all M modules.

    Args:
        model: A program of one routing site a step.
        x: (N, T) words.
        y: (N, T) the words that follow.
        k: Modules mixed.
    """
    check_count("k", k)
    program = RoutedProgram(model)

    def gate(name: str, log_probs: Tensor) -> Tensor:
        lowest = log_probs.topk(k, -1).values[..., -1:]
        return log_probs.masked_fill(log_probs < lowest, -math.inf).softmax(-1)

    def read(x: Tensor, y: Tensor) -> Reading:
        terms = program.relaxed(x, y, weights_of=gate, n_samples=1)
        use = torch.stack([w[0] for w in terms.weights.values()], 1)
        probs = torch.stack([p[0] for p in terms.log_probs.values()], 1).exp()
        return Reading(terms.likelihood[0], use, probs.unsqueeze(2))

    return _in_chunks(model, read, x, y)


@torch.no_grad()
def sampled_log_lik(
    model: Callable[..., Any],
    x: Tensor,
    y: Tensor,
    *,
    n_samples: int = 16,
    seed: int | None = 0,
) -> Float[Tensor, " windows"]:
    """log of the mean of p(y | x, a_s) over S routes from the routers, (N,).

    Its exponential is unbiased for p(y | x); it is itself biased low, so the perplexity
    that it gives is too high, the less the more routes are drawn. Cost: S runs.
    """
    check_count("n_samples", n_samples)
    program = RoutedProgram(model)
    parts = []
    with RandomStream(seed)(), evaluation_mode(model):
        for rows in torch.arange(len(x)).split(max(1, _CHUNK // n_samples)):
            terms = program.sample(x[rows], y[rows], n_samples=n_samples)
            parts.append(terms.likelihood.logsumexp(0) - math.log(n_samples))
    return torch.cat(parts)


def words_of_modules(
    use: Float[Tensor, "windows steps modules"],
    words: Int[Tensor, "windows steps"],
    vocabulary: Sequence[str],
    *,
    n_words: int = 10,
    least: int = 20,
) -> pd.DataFrame:
    """The words at which each module is used more than elsewhere.

    A word counts for a module by its lift: the module's share at that word over its
    share at all words. Words met less often than ``least`` times are left out.

    Args:
        use: Of a :class:`Reading`.
        words: (N, T) the words that stand at its steps: ``x``, those read, or ``y``,
            those predicted.
        vocabulary: How each word is written.
        n_words: Words a module.
        least: Occurrences from which a word counts.

    Returns:
        A row for each module and word, the highest lift first: ``module``, ``share``
        (of all words), ``word``, ``count``, ``share_at_word``, ``lift``. Modules that
        are never used have no row.
    """
    flat, n = words.flatten(), len(vocabulary)
    count = torch.bincount(flat, minlength=n)
    at_word = torch.zeros(n, use.shape[-1], dtype=torch.double)
    at_word.index_add_(0, flat, use.double().flatten(0, 1))
    at_word /= count.clamp_min(1).unsqueeze(-1)
    share = use.double().mean((0, 1))
    rows = []
    for module in share.nonzero().flatten().tolist():
        lift = (at_word[:, module] / share[module]).where(count >= least, -1.0)
        for word in lift.argsort(descending=True, stable=True)[:n_words].tolist():
            if lift[word] > 1:
                rows.append(
                    (
                        module,
                        share[module].item(),
                        vocabulary[word],
                        int(count[word]),
                        at_word[word, module].item(),
                        lift[word].item(),
                    )
                )
    columns = ["module", "share", "word", "count", "share_at_word", "lift"]
    return pd.DataFrame(rows, columns=columns)


def _in_chunks(
    model: Callable[..., Any],
    read: Callable[[Tensor, Tensor], Reading],
    x: Tensor,
    y: Tensor,
) -> Reading:
    with evaluation_mode(model):
        parts = [
            read(*rows) for rows in zip(x.split(_CHUNK), y.split(_CHUNK), strict=True)
        ]
    return Reading(*map(torch.cat, zip(*parts, strict=True)))
