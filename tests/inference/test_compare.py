"""Methods by seeds: one start a seed, failures kept, the prior by hand."""

import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import METHODS, NUTS, HardEM, ScoreFunction, compare, fit
from latentroute.inference.default_network import default_network
from latentroute.inference.prior import prior_log_likelihood
from latentroute.models import LayeredNetwork
from latentroute.tasks import Split, Task

F, CLASSES = 2, 3
FAST = {"steps": 3, "draws": 2, "batch_size": 8}


def make_task(head="categorical", n=24):
    generator = torch.Generator().manual_seed(0)

    def split(n):
        x = torch.randn(n, F, generator=generator)
        y = torch.randn(n, CLASSES, generator=generator)
        if head == "categorical":
            y = y.argmax(-1)
        elif head == "bernoulli":
            y = (y > 0).float()
        return Split(x, y, None)

    return Task(
        name="toy",
        train=split(n),
        valid=split(6),
        test=split(7),
        head=head,
        out_features=CLASSES,
        network={"n_layers": 1, "n_modules": 2, "hidden_features": 3},
    )


def test_runs_under_their_names_and_a_table():
    tree = compare(make_task(), ["exact", "hard-em"], 2, **FAST)
    for method in ("exact", "hard-em"):
        for seed in (0, 1):
            run = tree[f"{method}/seed_{seed}"]
            assert run.attrs["method"] == method and run.attrs["seed"] == seed
            assert run["training"]["loss"].shape[-1] == 3
    assert list(tree["summary"]["method"].values) == ["exact", "hard-em"]
    assert json.loads(tree.attrs["seeds"]) == [0, 1]
    assert set(json.loads(tree.attrs["methods"])) == {"exact", "hard-em"}
    assert tree.attrs["task"] == "toy"


def test_every_method_of_a_seed_starts_from_the_same_weights():
    starts = []

    def make(task):
        net = LayeredNetwork(
            task.in_features, task.out_features, n_layers=1, n_modules=2,
            hidden_features=3,
        )  # fmt: skip
        starts.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        return net

    state = torch.get_rng_state()
    compare(make_task(), ["exact", "score-function"], [3, 5], model=make, **FAST)
    assert torch.equal(state, torch.get_rng_state())
    one, two, again_one, again_two = starts[-4:]  # two methods were tried out before
    assert torch.equal(one, again_one) and torch.equal(two, again_two)
    assert not torch.equal(one, two)


def test_a_run_is_what_fit_gives():
    task = make_task()
    tree = compare(task, ["score-function"], [4], **FAST)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        net = default_network(task)
    result = fit(net, task, "score-function", steps=3, batch_size=8, seed=4)
    losses = tree["score-function/seed_4"]["training"]["loss"].values.flatten()
    assert losses.tolist() == pytest.approx([r["loss"] for r in result.history])


def test_draws_of_the_weights_are_the_trees_chains_and_draws():
    methods = {"nuts": NUTS(n_chains=2, max_tree_depth=2), "exact": METHODS["exact"]}
    tree = compare(make_task(), methods, 1, **{**FAST, "steps": 8, "draws": 3})
    sizes = tree["nuts/seed_0"]["posterior"].sizes
    assert (sizes["chain"], sizes["draw"]) == (2, 3)
    posterior = tree["nuts/seed_0"]["posterior"]
    assert posterior["head.linear.bias"].shape == (2, 3, CLASSES)
    assert {"lp", "diverging"} <= set(tree["nuts/seed_0"]["sample_stats"].data_vars)
    assert "head.linear.bias" not in tree["exact/seed_0"]["posterior"]
    with pytest.raises(ValueError, match="no draw in 3 steps"):
        compare(make_task(), {"nuts": NUTS(warmup=3)}, 1, **FAST)


def test_methods_as_values_under_labels_of_ones_own():
    methods = {"few": ScoreFunction(n_samples=2), "many": ScoreFunction(n_samples=9)}
    tree = compare(make_task(), methods, 1, **FAST)
    assert {"few", "many"} <= set(tree.children)
    assert "9" in json.loads(tree.attrs["methods"])["many"]


def test_a_bare_function_with_its_parameters():
    def make(task):
        first = torch.zeros(task.in_features, 2, requires_grad=True)
        out = torch.randn(2, task.out_features).requires_grad_()

        def model(x, y=None):
            with pyro.plate("data", len(x), dim=-1):
                a = pyro.sample("a", dist.Categorical(logits=x @ first))
                return pyro.sample("y", dist.Categorical(logits=out[a]), obs=y)

        return model, [first, out]

    tree = compare(make_task(), ["exact", "hard-em"], 1, model=make, **FAST)
    assert list(tree["exact/seed_0"]["posterior"]["site"].values) == ["a"]


def test_a_run_that_fails_is_kept_and_the_others_go_on():
    """Only one method's loss becomes infinite: that run says so."""

    class Fragile(LayeredNetwork):
        def forward(self, x, y=None, index=None, **options):
            drawn = super().forward(x, y, index, **options)
            value = 0.0 if y is None else -math.inf
            with pyro.plate("burst", len(x), dim=-1):
                pyro.factor("broken", x.new_full((len(x),), value))
            return drawn

    made = []

    def make(task):
        made.append(1)
        # The first two are those on which the methods are tried out.
        kind = Fragile if len(made) == 3 else LayeredNetwork
        return kind(F, CLASSES, n_layers=1, n_modules=2, hidden_features=3)

    tree = compare(make_task(), {"first": HardEM(), "then": HardEM()}, 1, model=make,
                   **FAST)  # fmt: skip
    assert "step 1" in tree["first/seed_0"].attrs["error"]
    assert "error" not in tree["then/seed_0"].attrs
    table = tree["summary"].to_dataset().to_dataframe()
    assert math.isfinite(table.loc["then", "log_lik"])


@pytest.mark.parametrize("head", ["categorical", "normal", "bernoulli"])
def test_the_prior_is_fitted_to_the_training_targets_alone(head):
    task = make_task(head)
    train, test = task.train.y, task.test.y
    if head == "categorical":
        counts = [int((train == c).sum()) + 1 for c in range(CLASSES)]
        total = sum(math.log(counts[c] / sum(counts)) for c in test.tolist())
    elif head == "normal":
        fitted = dist.Normal(train.mean(0), train.std(0))
        total = fitted.log_prob(test).sum().item()
    else:
        share = (train.sum(0) + 1) / (len(train) + 2)
        total = dist.Bernoulli(share).log_prob(test).sum().item()
    actual = prior_log_likelihood(task)
    assert actual == pytest.approx(total / len(test), rel=1e-5)
    tree = compare(task, ["exact"], 1, **FAST)
    assert tree.attrs["prior_log_lik"] == pytest.approx(actual)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((["exct"],), {}, "method must be one of exact"),
        (([],), {}, "methods must name at least one method"),
        ((["exact"], []), {}, "seeds must be at least one"),
        ((["exact"], 0), {}, "seeds must be at least one"),
        ((["exact"],), {"draws": 0}, "draws must be a whole number"),
        ((["exact"],), {"model": make_task, "network": {}}, "network="),
    ],
)
def test_bad_arguments_are_refused_before_training(arguments, options, text):
    with pytest.raises(ValueError, match=text) as error:
        compare(make_task(), *arguments, **options)
    assert "\n" not in str(error.value)


def test_one_name_is_no_sequence_of_names():
    with pytest.raises(TypeError, match="methods must be a sequence of names"):
        compare(make_task(), "exact")
