"""The exact step as a plain user of Pyro has it: TraceEnum_ELBO, weights by index."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceEnum_ELBO, config_enumerate
from served import layered_problem, serve

torch.set_num_threads(1)


def make(setting):
    found = {k: torch.tensor(v) for k, v in layered_problem(setting).items()}
    x, y = found.pop("x"), found.pop("y")

    @config_enumerate
    def model(x, y):
        p = {name: pyro.param(name, value) for name, value in found.items()}
        with pyro.plate("data", len(x)):
            z = x @ p["encoder.weight"].T + p["encoder.bias"]
            for i in range(setting["L"]):
                logits = z @ p[f"routers.{i}.weight"].T + p[f"routers.{i}.bias"]
                a = pyro.sample(f"a{i}", dist.Categorical(logits=logits))
                own = (z.unsqueeze(-2) @ p[f"weights.{i}"][a]).squeeze(-2)
                z = torch.tanh(own + p[f"biases.{i}"][a])
            logits = z @ p["head.weight"].T + p["head.bias"]
            pyro.sample("y", dist.Categorical(logits=logits), obs=y)

    def guide(x, y):
        pass

    loss = TraceEnum_ELBO(max_plate_nesting=1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), loss)

    def run(n):
        for _ in range(n):
            svi.step(x, y)

    return run, {"loss": loss.loss(model, guide, x, y) / len(x)}


if __name__ == "__main__":
    serve(make, "pyro-ppl", "torch")
