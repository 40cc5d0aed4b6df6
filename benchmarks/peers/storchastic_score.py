"""The score-function step in storchastic: S routes an example, leave-one-out baseline.

The first layer draws S choices and each later one a single choice for each of them, so
that S whole routes are evaluated, as in ours. Its leave-one-out baseline compares draws
of one site, so it stands at the first; at the later ones, of one draw each, there is
none. Rows go through their modules as in the hand-written step,
or by weights picked by index, as a plain user has it.
"""

import storch
import torch
from served import layered_problem, serve
from torch.distributions import Categorical

torch.set_num_threads(1)


def make(setting):
    found = {k: torch.tensor(v) for k, v in layered_problem(setting).items()}
    x, y = found.pop("x"), found.pop("y")
    p = {name: value.requires_grad_() for name, value in found.items()}
    optimiser = torch.optim.Adam(p.values(), lr=1e-3, fused=True)
    samples = [setting["S"]] + [1] * (setting["L"] - 1)
    methods = [
        storch.method.ScoreFunction(
            f"a{i}", n_samples=s, baseline_factory="batch_average" if s > 1 else None
        )
        for i, s in enumerate(samples)
    ]

    @storch.deterministic
    def module(z, a, w, b):
        # z: (N, S or 1, D), a: (N, S, 1)
        rows = z.expand(*a.shape[:-1], -1).flatten(0, -2)
        if setting.get("by_index"):
            own = (rows.unsqueeze(1) @ w[a.flatten()]).squeeze(1) + b[a.flatten()]
            return torch.tanh(own).reshape(*a.shape[:-1], -1)
        chosen, order = a.flatten().sort()  # as handwritten.sorted_affine
        ends = chosen.bincount(minlength=len(w)).cumsum(0).to(torch.int32)
        own = torch.nn.functional.grouped_mm(rows[order], w, offs=ends) + b[chosen]
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return torch.tanh(own[back]).reshape(*a.shape[:-1], -1)

    @storch.deterministic
    def cost(logits, y):
        at_y = logits.log_softmax(-1).gather(-1, y.expand(*logits.shape[:-1], 1))
        return -at_y.squeeze(-1)  # (N, S)

    def loss():
        optimiser.zero_grad()
        data = storch.denote_independent(x, 0, "data")
        target = storch.denote_independent(y, 0, "data")
        z = data @ p["encoder.weight"].T + p["encoder.bias"]
        for i, method in enumerate(methods):
            logits = z @ p[f"routers.{i}.weight"].T + p[f"routers.{i}.bias"]
            a = method(Categorical(logits=logits))
            z = module(z, a, p[f"weights.{i}"], p[f"biases.{i}"])
        logits = z @ p["head.weight"].T + p["head.bias"]
        storch.add_cost(cost(logits, target), "nll")
        return storch.backward()

    def run(n):
        for _ in range(n):
            loss()
            optimiser.step()

    draws = torch.tensor([float(loss().detach()) for _ in range(50)])
    error = (draws.std() / len(draws) ** 0.5).item()
    return run, {"loss": draws.mean().item(), "loss_error": error}


if __name__ == "__main__":
    serve(make, "storchastic", "torch")
