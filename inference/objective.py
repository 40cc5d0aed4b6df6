"""What an inference method is: a value that ties a model and a guide to a loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .precision import is_narrow
from .program import RoutedProgram, takes_index
from .random import RandomStream
from .regularisers import Gather, Regulariser, penalty
from .structure import Structure
from .training_checks import check_model, check_parameters
from .weight_draws import WeightDraws

Model = Callable[..., Any]


class Objective(nn.Module, ABC):
    """A differentiable loss of a model and a guide, per example, to be minimised.

    ``objective(x, y, index)`` is one Monte Carlo draw (exact methods: the value) of
    minus the objective, averaged over the batch. It owns no optimiser: any training
    loop over ``objective.parameters()``, the model's and the guide's, will do.

    Args:
        model: A Pyro program ``model(x, y=None)``. Its parameters are trained where it
            is an ``nn.Module``; it also gets ``index`` where it takes one.
        parameters: The tensors to train in place of the model's own; needed where the
            model is a plain function.
        n_data: Number of examples that ``index`` counts.
        seed: Starts a stream of random numbers of its own, from which calls are
            independent draws; ``None``: torch's global one.

    Raises:
        ValueError: If the model is a plain function and no parameters are given.
        TypeError: If it is no program, or what is to be trained no leaf tensors.
    """

    def __init__(
        self,
        model: Model,
        *,
        parameters: Iterable[Tensor] | None = None,
        n_data: int | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        check_model(model)
        self._program = RoutedProgram(model)
        self._takes_index = takes_index(model)
        self._own: dict[str, Tensor] = {}
        self.n_data = n_data
        self._stream = RandomStream(seed)
        self.step = 0  # calls so far, which schedules count
        self._regularisers: tuple[Regulariser, ...] = ()
        self._gather: Gather = list  # what is here is the whole batch
        if parameters is not None:
            self._keep(parameters)
        elif isinstance(model, nn.Module):
            self.model = model
        else:
            raise ValueError(
                f"the model {_name(model)} is no nn.Module: pass parameters=, the "
                "tensors to train (an empty list where there are none)"
            )

    @property
    def evaluated(self) -> Model:
        """The program that the objective trains, and that is to be evaluated.

        The model as given, unless the method trains another one in its place.
        """
        return self._program.model

    def regularise(self, regularisers: Sequence[Regulariser]) -> None:
        """Add regularisers to the loss, in place of those there are.

        Raises:
            TypeError: If one is no regulariser.
        """
        many = isinstance(regularisers, Iterable)
        for part in regularisers if many else [regularisers]:
            if not isinstance(part, Regulariser):
                raise TypeError(
                    "regularisers must be values such as StateEntropy(Constant(0.01)), "
                    f"got {part!r}"
                )
        self._regularisers = tuple(regularisers)

    @contextmanager
    def gathering(self, gather: Gather) -> Iterator[None]:
        """Compute what is no mean over examples of the whole batch, not of a part.

        Args:
            gather: From this part's rows of some tensors, those of the whole batch.
        """
        self._gather = gather
        try:
            yield
        finally:
            self._gather = list

    def structure(
        self, x: Any, y: Any = None, index: Tensor | None = None
    ) -> Structure:
        """The program's sites, read on an example batch."""
        return self._program.structure(*self._arguments(x, y, index))

    def prepare(self, x: Any, y: Any = None, index: Tensor | None = None) -> None:
        """Read the program on an example batch, and make what a guide needs of it.

        Raises:
            ValueError: If the program is not one that can be routed.
        """
        self.structure(x, y, index)

    @abstractmethod
    def _loss(self, x: Any, y: Any, index: Tensor | None) -> Tensor:
        """The loss of one batch; drawn inside the stream."""

    def forward(self, x: Any, y: Any = None, index: Tensor | None = None) -> Tensor:
        """One draw of the loss.

        Args:
            x: Inputs of the batch.
            y: Targets of the batch, or ``None`` for a model that scores by itself.
            index: (B,) rows of the data that the batch holds; ``None``: rows
                0 .. n_data - 1.

        Returns:
            The loss, a scalar: a mean over the batch.

        Raises:
            ValueError: If index does not fit the batch or the data.
        """
        self._check_index(x, index)
        if is_narrow():  # autocast keeps weights as they were cast before they moved
            torch.clear_autocast_cache()
        self._temper()
        with self._stream():
            loss = self._loss(x, y, index)
            if self._regularisers:
                args = self._arguments(x, y, index)
                parts = self._regularisers
                added = penalty(self._program, args, parts, self.step, self._gather)
                loss = loss + added
        self.step += 1
        return loss

    def weight_draws(
        self, n_draws: int | None = None, *, seed: int = 0
    ) -> WeightDraws | None:
        """Draws of the weights, where a distribution over them is inferred.

        Args:
            n_draws: Of each chain, at most; ``None``: as many as the method finds best.
            seed: Of the draws, where they are drawn now.

        Returns:
            The draws; ``None`` where weights have one value each.
        """
        return None

    def _named_weights(self) -> dict[str, Tensor]:
        """The model's trained tensors by name: the module's own, or parameter_0 .."""
        program = self._program.model
        inside = program.named_parameters() if isinstance(program, nn.Module) else ()
        module: dict[str, Tensor] = dict(inside)
        trained = module if "model" in self._modules else self._own
        names = {id(tensor): name for name, tensor in module.items()}
        return {
            names.setdefault(id(tensor), name): tensor
            for name, tensor in trained.items()
            if tensor.requires_grad
        }

    def _temper(self) -> None:
        """Scale the likelihoods as the regularisers ask at this step."""
        scales = [part.likelihood_scale(self.step) for part in self._regularisers]
        self._program.likelihood_scale = math.prod(scales)

    def _arguments(self, x: Any, y: Any, index: Tensor | None) -> tuple[Any, ...]:
        """What the model is called with."""
        return (x, y, index) if self._takes_index else (x, y)

    def _data_scale(self, n_batch: int) -> float:
        """N / B: how many examples each of the batch stands for."""
        return 1.0 if self.n_data is None else self.n_data / n_batch

    def _check_index(self, x: Any, index: Tensor | None) -> None:
        n = len(x)
        if index is None:
            if self.n_data is not None and n != self.n_data:
                raise ValueError(
                    f"index is needed for a batch: x has {n} examples, and index=None "
                    f"stands for all {self.n_data} rows of the data"
                )
            return
        if index.shape != (n,):
            raise ValueError(
                f"index must have shape ({n},), one row an example, got "
                f"{tuple(index.shape)}"
            )
        # Not on an accelerator, where to look is to wait for it.
        if self.n_data is not None and n and index.device.type == "cpu":
            low, high = (int(end) for end in index.aminmax())
            if low < 0 or high >= self.n_data:
                raise ValueError(
                    f"index must lie in 0 .. {self.n_data - 1}, got {low} .. {high}"
                )

    def _keep(self, parameters: Iterable[Tensor]) -> None:
        """Hold tensors by identity: gradients must reach the user's own."""
        for i, tensor in enumerate(check_parameters(parameters)):
            self._own[f"parameter_{i}"] = tensor
            if isinstance(tensor, nn.Parameter):
                self.register_parameter(f"parameter_{i}", tensor)
            else:  # a buffer for the checkpoint, listed as a parameter below
                self.register_buffer(f"parameter_{i}", tensor)

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of model and guide, plain leaf tensors included."""
        yield from super().named_parameters(prefix, recurse, remove_duplicate)
        for name, tensor in self._own.items():
            if not isinstance(tensor, nn.Parameter) and tensor.requires_grad:
                yield f"{prefix}{name}", tensor  # type: ignore[misc]

    def get_extra_state(self) -> dict[str, Any]:
        """Step and random stream, for a checkpoint."""
        return {"step": self.step, "stream": self._stream.state}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up step and random stream of a checkpoint."""
        self.step, self._stream.state = state["step"], state["stream"]


class Method(ABC):
    """An inference method: options, and how they make an objective.

    Concrete methods are frozen dataclasses whose fields are the options.
    ``method(model, guide)`` follows Pyro's ELBO convention: an ``nn.Module`` whose
    forward gives the loss.
    """

    summary: ClassVar[str]
    wiring: ClassVar[str]  # which training it is
    unbiased_for: ClassVar[str | None]  # of what its gradient is an unbiased estimate

    def __call__(
        self,
        model: Model,
        guide: Callable[..., Any] | None = None,
        *,
        parameters: Iterable[Tensor] | None = None,
        n_data: int | None = None,
        seed: int | None = None,
    ) -> Objective:
        """The objective of this model and guide; arguments as :class:`Objective`."""
        return self.objective(
            model, guide, parameters=parameters, n_data=n_data, seed=seed
        )

    def check_steps(self, n_steps: int) -> None:  # noqa: B027 (most take any)
        """Refuse a run of so many steps, where that is too few for the method.

        Raises:
            ValueError: Says how many it takes.
        """

    @abstractmethod
    def objective(
        self, model: Model, guide: Callable[..., Any] | None, **options: Any
    ) -> Objective:
        """What a concrete method says: how it makes its objective.

        Args:
            model: The model.
            guide: The guide, or ``None`` for the method's own.
            **options: ``parameters``, ``n_data`` and ``seed``, for
                :class:`Objective`.
        """


def _name(model: Model) -> str:
    return getattr(model, "__name__", type(model).__name__)
