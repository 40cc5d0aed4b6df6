"""NaN or infinity stops a training: where it was, and the batch to look at again."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch

from latentroute.inference import Diverged, build, fit, replay
from latentroute.inference.divergence import (
    FILE_NAME,
    finite_gradients,
    first_bad_site,
)
from latentroute.models import route
from tests.contracts.refusals import N, one_line, x

BAD_ROW = 4
SETTINGS = {"steps": 20, "batch_size": 2, "lr": 1e-3, "seed": 3, "log_every": 99}
y, bad_x = x.sum(1), x[BAD_ROW, 0]


class Model(torch.nn.Module):
    """A program whose second module, or whose second site, fails on one row."""

    def __init__(self, fails):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([[0.1, -0.1], [0.2, 0.3]]))
        self.fails = fails

    def forward(self, x, y=None):
        bad = torch.where(x[:, 0] == bad_x, torch.nan, 0.0)
        with pyro.plate("data", len(x), dim=-1):
            logits = x @ self.weight
            a = route("first", dist.Categorical(logits=logits))
            shift = bad if self.fails == "second" else torch.zeros(len(x))
            probs = (logits.T + shift).T
            b = route("second", dist.Categorical(logits=probs, validate_args=False))
            wrong = bad * b if self.fails == "y" else shift
            mean = a * x[:, 0] + torch.where(b == 1, wrong, 0.0)
            normal = dist.Normal(mean, 1.0, validate_args=False)
            return pyro.sample("y", normal, obs=y)


def stopped(fails, **options):
    with pytest.raises(Diverged) as error:
        fit(Model(fails), (x, y), **{"method": "exact", **SETTINGS, **options})
    text = str(error.value)
    assert "\n" not in text
    return text, error.value.saved


@pytest.mark.parametrize("method", ["exact", "score-function"])
@pytest.mark.parametrize("fails", ["second", "y"])
def test_step_site_method_and_batch_are_said(fails, method):
    text, saved = stopped(fails, method=method)
    assert BAD_ROW in saved["index"]
    assert f"at step {saved['step']} of" in text
    assert saved["method"] in ("Exact", "ScoreFunction")
    if method == "exact" or fails == "second":  # a drawn route may meet it by chance
        assert saved["site"] == fails
        assert f"site {fails!r} is the first that is not finite" in text
    assert torch.equal(saved["x"], x[saved["index"]])


def test_the_batch_on_disk_gives_the_same_again(tmp_path):
    text, saved = stopped("y", method="score-function", checkpoint=tmp_path)
    path = tmp_path / FILE_NAME
    assert str(path) in text and "replay" in text
    torch.load(path, weights_only=True)
    objective = build("score-function", Model("y"), n_data=N, seed=8)
    assert torch.isnan(replay(path, objective))
    healthy = build("score-function", Model("none"), n_data=N, seed=8)
    loss = replay(path, healthy)
    draws = {replay(path, healthy).item() for _ in range(5)}
    assert torch.isfinite(loss) and draws == {loss.item()}, "its own random numbers"
    assert healthy.step == saved["step"]


def spoils(step):
    """A model whose gradient is NaN at a step, where its loss is finite."""
    model, calls = Model("none"), []

    def gradient(grad):
        calls.append(1)
        return grad * (torch.nan if len(calls) == step else 1.0)

    model.weight.register_hook(gradient)
    return model


def test_a_gradient_that_is_not_finite_stops_before_it_spoils_anything(tmp_path):
    whole = fit(Model("none"), (x, y), "exact", **{**SETTINGS, "steps": 2})
    with pytest.raises(Diverged, match=r"gradient of model\.weight is not fi") as error:
        fit(spoils(3), (x, y), **SETTINGS, checkpoint=tmp_path)
    text, saved = str(error.value), error.value.saved
    assert "at step 3 of Exact" in text and "parameters that are not" not in text
    before = whole.model.weight.detach()
    assert torch.equal(saved["objective"]["model.weight"], before)
    objective = build("exact", spoils(1), n_data=N)
    loss = replay(tmp_path / FILE_NAME, objective)
    loss.backward()
    assert torch.isfinite(loss) and torch.equal(objective.model.weight, before)
    assert torch.isnan(objective.model.weight.grad).all()


def test_a_parameter_that_overflows_is_named_and_never_saved(tmp_path):
    """The one state that is not the step's beginning, which the line says."""
    settings = {**SETTINGS, "lr": 3e38, "checkpoint_every": 1}
    said = r"the step left a parameter .* at step 1 .* that are not: model\.weight"
    with pytest.raises(Diverged, match=said) as error:
        fit(Model("none"), (x, y), **settings, checkpoint=tmp_path)
    assert not error.value.saved["objective"]["model.weight"].isfinite().all()
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.double])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 6e4])
def test_gradients_of_any_type_are_looked_at_and_not_changed(dtype, value):
    parameters = [
        torch.nn.Parameter(torch.ones(3, dtype=d)) for d in (dtype, torch.float)
    ]
    unused = torch.nn.Parameter(torch.ones(2))
    for i, parameter in enumerate(parameters):
        parameter.grad = torch.tensor([0.1, value if i else -2.0, 7.0]).to(parameter)
    before = [p.grad.clone() for p in parameters]
    assert finite_gradients([unused, *parameters]) == (value == 6e4)
    for parameter, grad in zip(parameters, before, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=0, atol=0, equal_nan=True)


def test_gradients_are_looked_at_under_another_default_type():
    torch.set_default_dtype(torch.double)
    try:
        parameter = torch.nn.Parameter(torch.ones(2))
        parameter.grad = torch.tensor([0.1, torch.nan])
        assert not finite_gradients([parameter])
    finally:
        torch.set_default_dtype(torch.float)


def test_the_error_goes_to_another_process():
    error = pickle.loads(pickle.dumps(Diverged("the loss is nan at step 3")))
    assert str(error) == "the loss is nan at step 3"


def test_a_choice_without_probability_is_no_divergence():
    def model(x, y=None):
        with pyro.plate("data", len(x), dim=-1):
            logits = torch.tensor([0.0, -torch.inf]).expand(len(x), 2)
            a = route("a", dist.Categorical(logits=logits))
            return pyro.sample("y", dist.Normal(1.0 * a, 1.0), obs=y)

    assert first_bad_site(model, x, y) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", pickle.dumps([1])], ids=repr)
def test_a_file_that_is_no_batch(tmp_path, content):
    path = tmp_path / FILE_NAME
    path.write_bytes(content)
    objective = build("exact", Model("none"), n_data=N)
    one_line(lambda: replay(path, objective), "cannot be read")


def test_a_batch_of_another_model(tmp_path):
    stopped("y", checkpoint=tmp_path)
    other = Model("y")
    other.more = torch.nn.Parameter(torch.zeros(1))
    objective = build("exact", other, n_data=N)
    one_line(lambda: replay(tmp_path / FILE_NAME, objective), "another model")


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_complex_gradients_are_looked_at(value):
    weight = torch.ones(2, dtype=torch.complex64, requires_grad=True)
    weight.grad = torch.tensor([1.0 + 0j, complex(0.0, value)])
    assert finite_gradients([weight]) == (value == 1.0)
    assert weight.grad[0] == 1  # left as it was
