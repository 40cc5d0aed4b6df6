"""The amortised guide as a Pyro program and a network."""

import pyro
import pytest
import torch
from pyro import poutine

from latentroute.guides import AmortisedGuide, Decision
from tests import brute_force as truth

DECISIONS = [Decision("a", 3), Decision("b", 2), Decision("c", 4)]


def make_guide(decisions=DECISIONS, **options):
    guide = AmortisedGuide(decisions, 2, **{"n_classes": 3, "seed": 0} | options)
    return guide.double()


def make_data(n=5):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (n,), generator=generator)


def logits_of(guide, args, **given):
    """What the guide says of each site, earlier choices given."""
    data = {name: torch.full((len(args[0]),), value) for name, value in given.items()}
    trace = poutine.trace(pyro.condition(guide, data=data)).get_trace(*args)
    return {d.name: trace.nodes[d.name]["fn"].logits.detach() for d in guide.decisions}


def test_it_starts_uniform_and_alike_for_a_seed():
    guide, args = make_guide(), make_data()
    for decision in DECISIONS:
        logits = logits_of(guide, args)[decision.name]
        assert torch.allclose(
            logits.exp(), torch.full_like(logits, 1 / logits.shape[-1])
        )
    again, other = make_guide(), make_guide(seed=1)
    bias = guide.networks[0].bias
    assert torch.equal(bias, again.networks[0].bias)
    assert not torch.equal(bias, other.networks[0].bias)


def test_making_one_by_a_seed_leaves_torchs_own_state_alone():
    state = torch.get_rng_state()
    make_guide()
    assert torch.equal(state, torch.get_rng_state())


def test_each_site_sees_x_y_and_what_came_before():
    guide, (x, y) = make_guide(), make_data()
    truth.randomise(guide, 3)
    plain = logits_of(guide, (x, y), a=0, b=0)
    for changed in ((x + 1, y), (x, (y + 1) % 3)):
        moved = logits_of(guide, changed, a=0, b=0)
        assert all(not torch.allclose(moved[k], plain[k]) for k in "abc")
    moved = logits_of(guide, (x, y), a=2, b=0)
    assert torch.equal(moved["a"], plain["a"])
    assert not torch.allclose(moved["b"], plain["b"])
    assert not torch.allclose(moved["c"], plain["c"])


def test_classes_are_one_hot_and_numbers_are_not():
    x, y = make_data()
    classes = make_guide()
    assert classes._encode(x, y)[:, 2:].tolist() == torch.eye(3)[y].tolist()
    numbers = make_guide(n_classes=None, y_features=1)
    assert numbers._encode(x, y)[:, 2].tolist() == y.tolist()
    blind = make_guide(n_classes=None)
    assert torch.equal(blind._encode(x, None), x)
    images = x.reshape(5, 1, 2)
    assert torch.equal(classes._encode(images, y), classes._encode(x, y))


def test_a_static_site_sees_no_example_and_no_dynamic_choice():
    decisions = [Decision("a", 3), Decision("s", 2, static=True), Decision("b", 2)]
    guide, (x, y) = make_guide(decisions), make_data()
    truth.randomise(guide, 3)
    trace = poutine.trace(guide).get_trace(x, y)
    assert trace.nodes["s"]["value"].shape == ()
    assert guide(x, y).shape == (5, 3)
    assert logits_of(guide, (x, y))["s"].shape == (2,)
    assert guide.networks[1].weight is None and not len(guide.networks[1].previous)
    assert len(guide.networks[2].previous) == 2


@pytest.mark.parametrize(
    ("args", "parts"),
    [
        ((torch.zeros(4, 3), torch.zeros(4)), "x of 2 numbers"),
        ((torch.zeros(4, 2), torch.zeros(3)), "y of 1 numbers"),
        ((torch.zeros(4, 2), None), "got y=None"),
    ],
)
def test_other_shapes_are_refused(args, parts):
    with pytest.raises(ValueError, match=parts):
        make_guide()(*args)


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one decision"):
        AmortisedGuide([], 2)
    with pytest.raises(ValueError, match="hidden_features must be"):
        make_guide(hidden_features=0)
