"""A modular GRU language model: every word chooses the maps of its own step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .banks import Combine, Duplicates, ModuleBank
from .categorical import Categorical
from .checks import check_count, values_are_checked
from .routers import LinearRouter
from .routing import route


class ModularGRUCell(nn.Module):
    r"""A GRU cell whose affine maps, gates' and candidate's, are those of the modules.

    .. math::
        (r, u, c) = \sum_k W_{a_k} x + b_{a_k}, \quad
        (r', u', c') = \sum_k V_{a_k} h + d_{a_k}, \\
        \rho = \sigma(r + r'), \quad \upsilon = \sigma(u + u'), \quad
        h' = (1 - \upsilon) \tanh(c + \rho c') + \upsilon h

    With one module it is ``torch.nn.GRUCell``. The K chosen modules' maps are added
    before the nonlinear functions, or concatenated: each then gives 1/K of the units.

    Args:
        in_features: Width of x.
        hidden_features: Width of h.
        n_modules: Number of modules M.
        k: Modules chosen; with ``combine="concatenate"`` a divisor of the width of h.
        combine: ``"add"`` or ``"concatenate"`` the K chosen modules' maps.
        duplicates: A module chosen by several slots counts ``"once"`` or ``"each"``
            time.

    Raises:
        ValueError: If a size is not positive, k > M, or an option is unknown.

    References:
        Cho et al. 2014, arXiv:1406.1078, in the form of ``torch.nn.GRUCell``, whose
        reset gate acts after the candidate's map of h.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        *,
        n_modules: int,
        k: int = 1,
        combine: Combine = "add",
        duplicates: Duplicates = "once",
    ) -> None:
        super().__init__()
        sizes = {"in_features": in_features, "hidden_features": hidden_features}
        for name, size in {**sizes, "n_modules": n_modules, "k": k}.items():
            check_count(name, size)
        if k > n_modules:
            raise ValueError(f"k must be at most n_modules = {n_modules}, got {k}")
        self._parts = k if combine == "concatenate" else 1
        if hidden_features % self._parts:
            raise ValueError(
                f"hidden_features must be a multiple of k = {k} where the slots are "
                f"concatenated, got {hidden_features}"
            )
        self.hidden_features = hidden_features
        wide = 3 * hidden_features // self._parts

        def bank(width: int) -> ModuleBank:
            maps = [nn.Linear(width, wide) for _ in range(n_modules)]
            for parameter in (p for m in maps for p in m.parameters()):
                nn.init.uniform_(  # as GRUCell's
                    parameter, -(hidden_features**-0.5), hidden_features**-0.5
                )
            return ModuleBank(maps, combine=combine, duplicates=duplicates)

        self.of_input, self.of_state = bank(in_features), bank(hidden_features)

    def forward(
        self,
        x: Float[Tensor, "*#batch into"],
        h: Float[Tensor, "*#batch hidden"],
        routes: Sequence[Int[Tensor, "..."]],
    ) -> Float[Tensor, "*out_batch hidden"]:
        """The next state.

        Args:
            x: (*batch, in_features) inputs.
            h: (*batch, hidden_features) states.
            routes: The modules chosen, one tensor for each of the K slots, of shapes
                that broadcast with ``batch``.
        """
        reset, update, candidate = self._maps(self.of_input(x, routes))
        reset_h, update_h, candidate_h = self._maps(self.of_state(h, routes))
        kept = torch.sigmoid(update + update_h)
        fresh = torch.tanh(candidate + torch.sigmoid(reset + reset_h) * candidate_h)
        return fresh + kept * (h - fresh)

    def _maps(self, value: Tensor) -> tuple[Tensor, ...]:
        """The three maps' values, the slots' parts of each brought together."""
        if self._parts > 1:
            value = value.unflatten(-1, (self._parts, 3, -1)).transpose(-2, -3)
            value = value.flatten(-3)
        return value.chunk(3, -1)


class ModularGRU(nn.Module):
    r"""A language model p(y, a | x) over windows of T words, a GRU with modular maps.

    .. math::
        e_t = E_{x_t}, \quad a_t \sim p(a_t \mid e_t, h_{t-1}), \quad
        h_t = \mathrm{GRU}_{a_t}(e_t, h_{t-1}), \quad
        y_t \sim \mathrm{softmax}(W h_t + b), \quad h_{-1} = 0

    One example is a window: x its words, y the words that follow each. Decisions are
    the window's, a site a step (``route_0 .. route_{T-1}``, with K slots
    ``route_{t}_{k}``), and the M modules are the same at every step. The target's site
    is ``y``, with log p(y | x, a) = sum_t log p(y_t | x_{<=t}, a_{<=t}). With
    x_t = y_{t-1}, sum_a p(y, a | x) is a distribution of text: nothing looks ahead.
    The state starts anew in each window; it is not carried on.

    There are M^(T K) routes: take methods that sample them. Enumeration is for tests.

    Args:
        n_words: Size of the vocabulary.
        n_modules: Number of modules M; with one it is a dense GRU.
        hidden_features: Width of the state h.
        features: Width of the embeddings e; ``None``: that of the state.
        k: Modules chosen a step.
        combine: ``"add"`` or ``"concatenate"`` the chosen modules' maps.
        duplicates: A module chosen by several slots counts ``"once"`` or ``"each"``
            time; relaxations of several slots take ``"each"``.
        router: Makes a router from (width of e and h together, M).

    Raises:
        ValueError: If a size is not positive, k > M or an option is unknown.

    References:
        Kirsch, Kunze, Barber 2018, arXiv:1811.05249, section 4, for the experiment.
        They carry the state on, and have words of the Penn Treebank.

    Example:
        >>> net = ModularGRU(50, n_modules=3, hidden_features=8)
        >>> net(torch.zeros(7, 4, dtype=torch.long)).shape
        torch.Size([7, 4])
    """

    def __init__(
        self,
        n_words: int,
        *,
        n_modules: int,
        hidden_features: int,
        features: int | None = None,
        k: int = 1,
        combine: Combine = "add",
        duplicates: Duplicates = "once",
        router: Callable[[int, int], nn.Module] = LinearRouter,
    ) -> None:
        super().__init__()
        check_count("n_words", n_words)
        features = hidden_features if features is None else features
        self.cell = ModularGRUCell(
            features,
            hidden_features,
            n_modules=n_modules,
            k=k,
            combine=combine,
            duplicates=duplicates,
        )
        self.n_words = n_words
        self.n_modules = n_modules
        self.k = k
        self.embedding = nn.Embedding(n_words, features)
        self.routers = nn.ModuleList(
            router(features + hidden_features, n_modules) for _ in range(k)
        )  # slot by slot
        self.head = nn.Linear(hidden_features, n_words)

    def forward(
        self,
        x: Int[Tensor, "batch steps"],
        y: Tensor | None = None,
        index: Int[Tensor, " batch"] | None = None,
        *,
        n_data: int | None = None,
    ) -> Tensor:
        """Run the program.

        Args:
            x: (N, T) words 0 .. n_words - 1.
            y: (N, T) the words after them, to condition on; ``None`` samples them.
            index: (N,) which examples of the data these are, for a guide that keeps
                something an example.
            n_data: Size of the data that the batch is a subsample of; Pyro's plate
                then scales by n_data / N.

        Returns:
            (N, T) the words that follow, given or sampled.

        Raises:
            ValueError: If x or y has the wrong shape or a word out of range.
        """
        self.check(x, y)
        states = []
        with pyro.plate("data", n_data or len(x), subsample=index, dim=-1):
            embedded = self.embedding(x.long())
            h = embedded.new_zeros(len(x), self.cell.hidden_features)
            for t, e in enumerate(embedded.unbind(1)):
                seen = _beside(e, h)
                routes = [
                    route(name, router(seen))
                    for name, router in zip(self._names(t), self.routers, strict=True)
                ]
                h = self.cell(e, h, routes)
                states.append(h)
            every = torch.stack(torch.broadcast_tensors(*states), -2)  # (*, N, T, H)
            words = Categorical(self.head(every))
            following = dist.Independent(words, 1, validate_args=False)
            target: Tensor = pyro.sample(
                "y", following, obs=None if y is None else y.long()
            )
        return target

    def _names(self, t: int) -> list[str]:
        """Of the sites of step t."""
        if self.k == 1:
            return [f"route_{t}"]
        return [f"route_{t}_{slot}" for slot in range(self.k)]

    def check(self, x: Tensor, y: Tensor | None = None) -> None:
        """Check a batch.

        Raises:
            ValueError: Names what was given and what is accepted.
        """
        if x.dim() != 2 or 0 in x.shape:
            raise ValueError(
                "x must have shape (N, T), windows of words, both at least 1; got "
                f"{tuple(x.shape)}"
            )
        if y is not None and y.shape != x.shape:
            raise ValueError(
                f"y must have the shape of x, {tuple(x.shape)}; got {tuple(y.shape)}"
            )
        for name, words in (("x", x), ("y", y)):
            if words is not None and values_are_checked(words):
                low, high = words.aminmax()
                if low < 0 or high >= self.n_words or words.is_floating_point():
                    raise ValueError(
                        f"{name} must hold words as whole numbers 0 .. "
                        f"{self.n_words - 1}; got {words.dtype} from {low.item()} to "
                        f"{high.item()}"
                    )


def _beside(
    e: Float[Tensor, "batch features"], h: Float[Tensor, "*batch hidden"]
) -> Float[Tensor, "*batch both"]:
    """What a router sees: the embedded word and the state."""
    return torch.cat([e.expand(*h.shape[:-1], e.shape[-1]), h], -1)
