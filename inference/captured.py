"""A loss and its gradient captured once as a graph of tensor operations, and replayed.

What a Pyro program costs beside its arithmetic, handlers, plates and distributions, is
paid when the graph is captured and not when it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import pyro
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from ..models.checks import shapes_alone
from .precision import narrow_types
from .program import RoutedProgram
from .random import random_state, same_random_state, set_random_state
from .structure import untouched_randomness

Compiler = Literal["capture", "inductor"]
Key = tuple[Any, ...]
Graph = Callable[..., tuple[Tensor, ...]]  # of parameters and data: loss, gradients

_LOG = logging.getLogger(__name__)
_MOST_GRAPHS = 8  # each is another shape of the batch
_TRUSTED_AFTER = 2  # batches on which graph and program were seen to agree
_ROUNDING = 1e-4  # relative, between one order of float32 operations and another


class CapturedLoss:
    """A loss that runs as a captured graph where that gives the program's own values.

    A graph is made for each new shape of the batch, and trusted after it has agreed
    with the program, in value and gradient, on two batches; where it draws, from the
    same random numbers, of which it must take as many. Where the program cannot be
    captured (Python that looks at tensors' values) or the two disagree, the program
    itself runs, and the log says so, once; so it does, without a word, where an
    argument requires a gradient or the likelihood is tempered. Python state that
    changes as training goes on (a temperature in an attribute, another submodule in a
    place, ``n_data``) is captured as it stood, but for ``train()`` and ``eval()``,
    which make a graph each. A trusted graph does not look at the data's values: ``fit``
    has checked them.

    Args:
        loss: The loss of the model on some arguments: a scalar.
        program: The model's program, whose parameters it depends on, and none else.
        compiler: ``"capture"``: the graph runs operation by operation (made in a
            second). ``"inductor"``: it is compiled by torch's inductor, which takes up
            to a minute and a C++ compiler.

    Attributes:
        n_captures: Graphs made so far: shapes met.

    Raises:
        ValueError: If the model is no ``nn.Module``.
    """

    def __init__(
        self, loss: Callable[..., Tensor], program: RoutedProgram, compiler: Compiler
    ) -> None:
        model = program.model
        if not isinstance(model, nn.Module):
            raise ValueError(
                "compile needs a model that is an nn.Module, whose parameters a graph "
                f"can be given, got {type(model).__name__}"
            )
        self._loss = loss
        self._program = program
        self._module = _LossModule(loss, model)
        self._parts = list(model.modules())
        self._places: dict[str, tuple[nn.Module, str]] = {}
        for name, _ in self._module.named_parameters():
            path, _, own = name.rpartition(".")
            self._places[name] = (self._module.get_submodule(path), own)
        self._compiler = compiler
        self._graphs: dict[Key, Graph] = {}
        self._agreed: dict[Key, int] = {}
        self._refused = False
        self.n_captures = 0

    def __call__(self, *args: Any) -> Tensor:
        """The loss, differentiable once in the model's parameters."""
        data = _tensors(args)
        tempered = self._program.likelihood_scale != 1.0
        if self._refused or tempered or any(tensor.requires_grad for tensor in data):
            return self._loss(*args)
        # Looked up anew, since a parameter may be replaced; named_parameters is slow.
        weights = {k: part._parameters[own] for k, (part, own) in self._places.items()}
        named = {k: w for k, w in weights.items() if w is not None and w.requires_grad}
        modes = tuple([part.training for part in self._parts])
        key = (*map(_shape, args), modes, tuple(named), narrow_types())
        graph = self._graphs.get(key)
        if graph is not None and self._agreed[key] >= _TRUSTED_AFTER:
            return _replay(graph, data, named.values())
        return self._tried(key, named, args)

    def _tried(self, key: Key, named: Mapping[str, Tensor], args: Any) -> Tensor:
        """The program's own loss, and whether the graph gives the same."""
        before = random_state()
        loss = self._loss(*args)
        if not torch.is_grad_enabled():
            return loss
        if key not in self._graphs and len(self._graphs) == _MOST_GRAPHS:
            return self._refuse(f"{_MOST_GRAPHS} shapes of batches were met", loss)
        try:
            if key not in self._graphs:
                self._graphs[key] = self._capture(named, args)
                self._agreed[key] = 0
            leaves, after = _detached(named.values()), random_state()
            with untouched_randomness():
                set_random_state(before)
                value, *gradients = self._graphs[key](*leaves, *_tensors(args))
                drew_as_many = same_random_state(after)
        except Exception as error:  # whatever tracing or a compiler raises
            reason = str(error).strip().splitlines() or [""]
            return self._refuse(f"{type(error).__name__}: {reason[0]}", loss)
        weights = list(named.values())
        own = torch.autograd.grad(
            loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        if not drew_as_many:
            return self._refuse("the graph draws another number of times", loss)
        if not _agree([value, *gradients], [loss.detach(), *own]):
            return self._refuse("the graph gives other values", loss)
        self._agreed[key] += 1
        return loss

    def _refuse(self, reason: str, loss: Tensor) -> Tensor:
        _LOG.warning("the step runs as a plain program, not captured: %s", reason)
        self._refused = True
        return loss

    def _capture(self, named: Mapping[str, Tensor], args: Any) -> Graph:
        names = list(named)

        def joint(*flat: Tensor) -> tuple[Tensor, ...]:
            weights, data = flat[: len(names)], flat[len(names) :]
            values = dict(zip(names, weights, strict=True))
            own = _with_tensors(args, iter(data))
            loss = torch.func.functional_call(self._module, values, own)
            found = torch.autograd.grad(
                loss, weights, allow_unused=True, materialize_grads=True
            )
            return loss, *found

        leaves = [w.requires_grad_() for w in _detached(named.values())]
        trace = make_fx(joint, tracing_mode="fake", _allow_non_fake_inputs=False)
        with shapes_alone(), pyro.validation_enabled(False):
            graph: GraphModule = trace(*leaves, *_tensors(args))
        self.n_captures += 1
        for node in graph.graph.nodes:  # nothing is recorded when it runs
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
        graph.graph.eliminate_dead_code()
        graph.recompile()
        if self._compiler == "capture":
            return graph.forward
        # Not torch.compile, which looks at shapes and types at each call: they are the
        # key of this graph.
        from torch import _inductor

        compiled: Graph = _inductor.compile(
            graph,
            [*_detached(leaves), *_tensors(args)],
            options={"fallback_random": True},  # torch's own stream, as the program's
        )
        return compiled


class _LossModule(nn.Module):
    """The loss as a module, so that other values can stand in for the parameters."""

    def __init__(self, loss: Callable[..., Tensor], model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._loss = loss

    def forward(self, *args: Any) -> Tensor:
        return self._loss(*args)


class _Replay(torch.autograd.Function):
    """Runs a graph that gives the loss and its gradient together."""

    @staticmethod
    def forward(ctx: Any, graph: Graph, data: list[Tensor], *w: Tensor) -> Tensor:
        loss, *ctx.gradients = graph(*w, *data)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():  # create_graph: what is given back has no graph
            raise RuntimeError(
                "a captured step is differentiable once, got create_graph=True: use "
                "compile=None"
            )
        if gradient.device.type == "cpu" and gradient.item() == 1.0:  # loss.backward()
            return (None, None, *ctx.gradients)
        return (None, None, *(gradient * g for g in ctx.gradients))


def _replay(graph: Graph, data: list[Tensor], weights: Iterable[Tensor]) -> Tensor:
    loss: Tensor = _Replay.apply(graph, data, *weights)  # type: ignore[no-untyped-call]
    return loss


def _tensors(args: Any) -> list[Tensor]:
    """The tensors among arguments, in order."""
    if isinstance(args, Tensor):
        return [args]
    if isinstance(args, Mapping):
        args = args.values()
    elif not isinstance(args, list | tuple):
        return []
    return [tensor for arg in args for tensor in _tensors(arg)]


def _with_tensors(args: Any, tensors: Iterator[Tensor]) -> Any:
    """The arguments with others in their tensors' places."""
    if isinstance(args, Tensor):
        return next(tensors)
    if isinstance(args, Mapping):
        return {key: _with_tensors(value, tensors) for key, value in args.items()}
    if isinstance(args, list | tuple):
        own = [_with_tensors(arg, tensors) for arg in args]
        return type(args)(*own) if hasattr(args, "_fields") else type(args)(own)
    return args


def _detached(weights: Any) -> list[Tensor]:
    return [weight.detach() for weight in weights]


def _shape(arg: Any) -> Any:
    """What a graph depends on of an argument: all of it but tensors' values."""
    if isinstance(arg, Tensor):
        return arg.shape, arg.stride(), arg.dtype, arg.device
    if isinstance(arg, Mapping):
        return tuple([(key, _shape(value)) for key, value in arg.items()])
    return tuple(map(_shape, arg)) if isinstance(arg, list | tuple) else arg


def _agree(found: Sequence[Tensor], expected: Sequence[Tensor]) -> bool:
    """Whether loss and gradients are the same but for rounding."""
    scales = [expected[0].abs(), *[_largest(expected[1:])] * (len(expected) - 1)]
    return all(
        f.shape == e.shape and bool(((f - e).abs() <= _ROUNDING * scale).all())
        for f, e, scale in zip(found, expected, scales, strict=True)
    )


def _largest(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([g.abs().max() for g in gradients if g.numel()]).max()
