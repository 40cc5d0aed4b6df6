"""Programs with discrete latent sites, the first ones of Pyro's documentation."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine


def mixture(data, k=2):
    """The Gaussian mixture of Pyro's tutorial (gmm.ipynb)."""
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(k)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", k):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def hmm(sequences, lengths, k=2):
    """model_1 of Pyro's examples/hmm.py: sequences of tones, of several lengths."""
    n_sequences, longest, n_tones = sequences.shape
    probs_x = pyro.sample(
        "probs_x", dist.Dirichlet(0.9 * torch.eye(k) + 0.1).to_event(1)
    )
    probs_y = pyro.sample(
        "probs_y", dist.Beta(0.1, 0.9).expand([k, n_tones]).to_event(2)
    )
    tones = pyro.plate("tones", n_tones, dim=-1)
    with pyro.plate("sequences", n_sequences, dim=-2):
        x = 0
        for t in pyro.markov(range(longest)):
            with poutine.mask(mask=(t < lengths).unsqueeze(-1)):
                x = pyro.sample(
                    f"x_{t}",
                    dist.Categorical(probs_x[x]),
                    infer={"enumerate": "parallel"},
                )
                with tones:
                    pyro.sample(
                        f"y_{t}",
                        dist.Bernoulli(probs_y[x.squeeze(-1)]),
                        obs=sequences[:, t],
                    )


def sprinkler(wet):
    """A plate-less network, after the chain of Pyro's tutorial (enumeration.ipynb)."""
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    rain = pyro.sample("rain", dist.Bernoulli(p))
    on = pyro.sample("on", dist.Bernoulli(torch.tensor([0.4, 0.01])[rain.long()]))
    table = torch.tensor([[0.05, 0.9], [0.8, 0.99]])
    pyro.sample("wet", dist.Bernoulli(table[rain.long(), on.long()]), obs=wet)


def weather(temperature):
    """Pyro's first program (intro_long.ipynb): Python control flow on a choice."""
    cloudy = pyro.sample("cloudy", dist.Bernoulli(0.3))
    mean, scale = (55.0, 10.0) if cloudy.item() == 1.0 else (75.0, 15.0)
    pyro.sample("temp", dist.Normal(mean, scale), obs=temperature)


def shared(x, y):
    """A discrete site above the plate, and one in it, with a second observed site."""
    b = pyro.sample("b", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
    with pyro.plate("rows", len(x)):
        a = pyro.sample("a", dist.Categorical(logits=torch.stack([x, -x], -1)))
        pyro.sample("u", dist.Normal(a + 0.5 * b, 1.0), obs=y)
        pyro.sample("v", dist.Normal(2.0 * x, 1.0), obs=y)


def local(y):
    """A continuous site in the plate whose prior depends on the discrete one."""
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        w = pyro.sample("w", dist.Normal(3.0 * z, 1.0))
        pyro.sample("y", dist.Normal(w + z, 0.5), obs=y)


def nested(y):
    """Discrete sites in nested plates, sites of another support, a summary."""
    n, m = y.shape
    with pyro.plate("groups", n, dim=-2):
        g = pyro.sample("g", dist.Categorical(torch.tensor([0.6, 0.4])))
        pyro.deterministic("effect", 2.0 * g)
        with pyro.plate("members", m, dim=-1):
            h = pyro.sample("h", dist.Binomial(1, torch.tensor([0.2, 0.7])[g]))
            pyro.sample("y", dist.Normal(h + 2.0 * g, 1.0), obs=y)


def looped(y):
    """A sequential plate."""
    for i in pyro.plate("trials", len(y)):
        z = pyro.sample(f"z_{i}", dist.Categorical(torch.tensor([0.3, 0.7])))
        pyro.sample(f"y_{i}", dist.Normal(2.0 * z, 1.0), obs=y[i])


def second_order(y):
    """A chain whose states look two steps back."""
    table = torch.tensor([[[0.9, 0.1], [0.3, 0.7]], [[0.5, 0.5], [0.2, 0.8]]])
    before, last = torch.tensor(0), torch.tensor(0)
    for t in pyro.markov(range(len(y)), history=2):
        now = pyro.sample(f"s_{t}", dist.Categorical(table[before, last]))
        pyro.sample(f"y_{t}", dist.Normal(1.5 * now, 1.0), obs=y[t])
        before, last = last, now
