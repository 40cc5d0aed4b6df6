"""What a step leaves to Python's garbage collector: nothing."""

import gc

import pytest
from torch import nn

from tests.contracts.methods import TAKE_EVERYTHING
from tests.inference.test_counting import make_net, step_of


class Knot(nn.Linear):
    """An encoder that leaves a cycle of objects behind."""

    def forward(self, x):
        knot = [x]
        knot.append(knot)
        return super().forward(x)


def garbage(method, encoder=None):
    """Objects that ten steps leave to the garbage collector."""
    step = step_of(method, make_net(2, 3, encoder=encoder))
    step().backward()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            step().backward()
        return gc.collect()
    finally:
        gc.enable()


@pytest.mark.parametrize("method", TAKE_EVERYTHING)
def test_a_step_leaves_nothing_to_the_garbage_collector(method):
    """Or tensors would stay until it runs, which the command line does seldom."""
    assert garbage(method) == 0


def test_a_cycle_is_found():
    assert garbage("exact", Knot(5, 8)) >= 10
