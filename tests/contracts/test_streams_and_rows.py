"""Every method: one seed one stream of draws; an index says which rows there are."""

import pytest
import torch

from latentroute.inference import METHODS, build, fit
from tests.contracts.methods import (
    N,
    both_routings,
    every_method,
    grads,
    make_data,
    make_net,
    takes,
)


def losses_of(objective, x, y, n=4):
    with torch.no_grad():
        return torch.stack([objective(x, y) for _ in range(n)])


@both_routings
@every_method
def test_a_seed_starts_one_stream(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    one, two, other = (build(method, net, n_data=N, seed=s) for s in (7, 7, 8))
    torch.manual_seed(0)
    first = losses_of(one, x, y)
    torch.manual_seed(123)
    torch.rand(5)
    assert torch.equal(first, losses_of(two, x, y))
    assert torch.isfinite(losses_of(other, x, y)).all()


@every_method
def test_successive_calls_are_independent_draws(method):
    """Where the seed matters, calls in a row differ; else they are the same."""
    net, (x, y) = make_net(), make_data()

    def drawn(seed):
        objective = build(method, net, n_data=N, seed=seed)
        return [grads(objective(x, y), net.parameters()) for _ in range(3)]

    first, other = drawn(7), drawn(8)
    random = not torch.equal(first[0], other[0])
    assert random == (not torch.equal(first[0], first[1]))
    if not random:
        assert METHODS[method].unbiased_for in ("marginal", None)


@both_routings
@every_method
def test_a_seed_leaves_the_global_random_state_alone(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    torch.manual_seed(4)
    state = torch.get_rng_state()
    objective = build(method, net, n_data=N, seed=7, example=(x, y))
    objective(x, y).backward()
    objective(x, y)
    assert torch.equal(state, torch.get_rng_state())
    fit(net, (x, y), method, steps=2, seed=3)
    assert torch.equal(state, torch.get_rng_state())


@every_method
def test_without_a_seed_torchs_own_state_is_drawn_from(method):
    net, (x, y) = make_net(), make_data()

    def drawn(seed):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return losses_of(build(method, net, n_data=N), x, y)

    def differ(losses):
        return len({tuple(each.tolist()) for each in losses}) > 1

    assert torch.equal(drawn(1), drawn(1))
    seeded = [build(method, net, n_data=N, seed=seed) for seed in range(5)]
    seeds_matter = differ([losses_of(objective, x, y) for objective in seeded])
    assert seeds_matter == differ([drawn(seed) for seed in range(5)])


# Which rows a batch holds.


@every_method
def test_no_index_means_all_rows_in_order(method):
    net, (x, y) = make_net(), make_data()
    one, two = (build(method, net, n_data=N, seed=1) for _ in range(2))
    for _ in range(3):
        assert torch.equal(one(x, y), two(x, y, torch.arange(N)))


@every_method
def test_no_index_for_a_part_of_the_rows_is_an_error(method):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match="index is needed") as error:
        objective(x[:5], y[:5])
    text = str(error.value)
    assert "5" in text and str(N) in text and "\n" not in text
    longer = x.repeat(2, 1), y.repeat(2)
    with pytest.raises(ValueError, match="index is needed"):
        objective(*longer)


@every_method
@pytest.mark.parametrize("rows", [[0, N], [-1, 2]])
def test_an_index_out_of_range_is_an_error(method, rows):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match=r"index must lie in 0 \.\. 11, got") as error:
        objective(x[:2], y[:2], torch.tensor(rows))
    assert "\n" not in str(error.value)


@every_method
@pytest.mark.parametrize("index", [torch.arange(3), torch.zeros(2, 1).long()])
def test_an_index_of_another_shape_is_an_error(method, index):
    net, (x, y) = make_net(), make_data()
    objective = build(method, net, n_data=N, seed=1)
    with pytest.raises(ValueError, match=r"index must have shape \(2,\)"):
        objective(x[:2], y[:2], index)


@both_routings
@every_method
def test_minibatches_in_any_order_and_a_last_one_that_is_smaller(method, routing):
    if not takes(method, make_net(routing)):
        return
    net, (x, y) = make_net(routing), make_data()
    objective = build(method, net, n_data=N, seed=1)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for rows in order.split(5):  # 5, 5, 2
        loss = objective(x[rows], y[rows], rows)
        loss.backward()
        assert torch.isfinite(loss)
    one = torch.tensor([4])
    assert torch.isfinite(objective(x[one], y[one], one))
