"""What the tests of refusals share: bad input gets one line."""

import re

import pytest
import torch

from latentroute.inference import METHODS
from latentroute.models import LayeredNetwork

N, F, CLASSES, M = 6, 2, 3, 3
every_method = pytest.mark.parametrize("method", list(METHODS))
both_routings = pytest.mark.parametrize("routing", ["dynamic", "static"])


def make_net(**options):
    shape = {"n_layers": 2, "n_modules": M, "hidden_features": 4} | options
    return LayeredNetwork(F, CLASSES, **shape)


def make_data(n=N):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, F, generator=generator)
    return x, torch.randint(CLASSES, (n,), generator=generator)


def one_line(call, *parts, kind=ValueError):
    """The call is refused in one line that has all the parts."""
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert "\n" not in text.strip(), text
    for part in parts:
        assert re.search(part, text), f"{part!r} is not in: {text}"
    return text


x, y = make_data()
