"""A stream of random numbers of an objective's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from .structure import untouched_randomness


class RandomStream:
    """Makes what runs inside it draw from one seeded stream.

    Pyro's distributions draw from torch's global state, so the stream's state is put in
    its place meanwhile. Successive uses go on where the last one ended.

    Args:
        seed: Starts the stream; ``None`` draws from torch's global state as it is.
    """

    def __init__(self, seed: int | None) -> None:
        self.state: Tensor | None = None
        if seed is not None:
            self.state = torch.Generator().manual_seed(seed).get_state()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Draw from the stream inside the ``with`` block."""
        if self.state is None:
            yield
            return
        with untouched_randomness() if torch.cuda.is_initialized() else nullcontext():
            outside = torch.get_rng_state()
            torch.set_rng_state(self.state)
            if torch.cuda.is_initialized():  # the devices follow the CPU's stream
                torch.cuda.manual_seed_all(int(torch.randint(2**62, ())))
            try:
                yield
            finally:
                self.state = torch.get_rng_state()
                torch.set_rng_state(outside)


def random_state() -> list[Tensor]:
    """The state of torch's random numbers, of this device's too where it is in use."""
    devices = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return [torch.get_rng_state(), *devices]


def set_random_state(state: list[Tensor]) -> None:
    """Go back to a state."""
    torch.set_rng_state(state[0])
    for device in state[1:]:
        torch.cuda.set_rng_state(device)


def same_random_state(state: list[Tensor]) -> bool:
    """Whether torch's random numbers are in this state."""
    now = random_state()
    return len(now) == len(state) and all(map(torch.equal, now, state))
