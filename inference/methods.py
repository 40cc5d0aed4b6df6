"""The table of inference methods, and the one way to build an objective by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..models.checks import check_choice
from .em import HardEM, TopKBuffer
from .estimators.amortised import Amortised
from .estimators.gumbel_softmax import GumbelSoftmax
from .estimators.hybrid import Hybrid
from .estimators.importance import Importance
from .estimators.local_enumeration import LocalEnumeration
from .estimators.mean_field import MeanField
from .estimators.memory_augmented import MemoryAugmented
from .estimators.noisy_top_k import NoisyTopK
from .estimators.nuts import NUTS
from .estimators.reinmax import ReinMax
from .estimators.relax import Relax
from .estimators.soft import Soft
from .estimators.sparsemax import Entmax15, Sparsemax
from .estimators.straight_through import StraightThrough
from .estimators.svi_bayes import SVIBayes
from .estimators.unordered_set import UnorderedSet
from .estimators.wake_sleep import WakeSleep
from .exact import Exact
from .objective import Method, Model, Objective
from .recover import Recover
from .regularisers import Regulariser
from .score_function import ScoreFunction

METHODS: Mapping[str, Method] = {
    "exact": Exact(),
    "score-function": ScoreFunction(),
    "hard-em": HardEM(),
    "topk-buffer": TopKBuffer(),
    "amortised": Amortised(),
    "wake-sleep": WakeSleep(),
    "mean-field": MeanField(),
    "svi-bayes": SVIBayes(),
    "nuts": NUTS(),
    "gumbel-softmax": GumbelSoftmax(),
    "straight-through": StraightThrough(),
    "reinmax": ReinMax(),
    "soft": Soft(),
    "noisy-top-k": NoisyTopK(),
    "sparsemax": Sparsemax(),
    "entmax15": Entmax15(),
    "relax": Relax(),
    "hybrid": Hybrid(),
    "local-enumeration": LocalEnumeration(),
    "unordered-set": UnorderedSet(),
    "importance": Importance(),
    "memory-augmented": MemoryAugmented(),
    "recover": Recover(),
}


def get_method(method: str | Method, **options: Any) -> Method:
    """A method by name or as it is, with some of its options replaced.

    Raises:
        ValueError: If the name or an option is unknown, or an option's value is wrong.
    """
    if isinstance(method, str):
        check_choice("method", method, METHODS)
        method = METHODS[method]
    if not isinstance(method, Method):
        raise TypeError(f"method must be a name or a Method, got {method!r}")
    fields = [field.name for field in dataclasses.fields(method)]  # type: ignore[arg-type]
    for option in options:
        if option not in fields:
            raise ValueError(
                f"{type(method).__name__} has no option {option!r}; it takes "
                f"{', '.join(fields) or 'none'}"
            )
    return dataclasses.replace(method, **options)  # type: ignore[type-var]


def build(
    method: str | Method,
    model: Model,
    *,
    parameters: Iterable[Tensor] | None = None,
    n_data: int | None = None,
    example: tuple[Any, ...] | None = None,
    seed: int | None = None,
    regularisers: Sequence[Regulariser] = (),
    **options: Any,
) -> Objective:
    """The objective of a method for a model: an ``nn.Module`` that gives the loss.

    Args:
        method: A name in ``METHODS``, or a method as a value.
        model: A Pyro program ``model(x, y=None)`` with routing sites.
        parameters: Tensors to train; needed where the model is no ``nn.Module``.
        n_data: Number of examples; needed by methods that keep something an example.
        example: ``(x, y)`` of a few examples, with which the program is read at once,
            its errors shown, and what a guide needs is made.
        seed: Starts one stream of random numbers; calls are independent draws.
        regularisers: Parts to add to the loss.
        **options: Replace the method's options.

    Returns:
        The objective: ``objective(x, y, index=None)``.

    Raises:
        ValueError: If a name or an option is unknown, or something needed is missing.

    Example:
        >>> import torch
        >>> from latentroute.models import LayeredNetwork
        >>> net = LayeredNetwork(2, 3, n_layers=2, n_modules=4, hidden_features=4)
        >>> objective = build("score-function", net, seed=0, n_samples=4)
        >>> loss = objective(torch.zeros(5, 2), torch.zeros(5, dtype=torch.long))
        >>> loss.shape
        torch.Size([])
    """
    objective = get_method(method, **options)(
        model, parameters=parameters, n_data=n_data, seed=seed
    )
    objective.regularise(regularisers)
    if example is not None:
        objective.prepare(*example)
    return objective
