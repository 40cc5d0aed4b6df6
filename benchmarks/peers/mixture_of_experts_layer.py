"""mixture-of-experts' layer, forward and backward: two experts a token, none full."""

import torch
from mixture_of_experts import MoE
from served import capacity, experts_problem, serve

torch.set_num_threads(1)


def make(setting):
    found = {k: torch.tensor(v) for k, v in experts_problem(setting).items()}
    tokens = found["tokens"].requires_grad_()
    layer = MoE(
        setting["D"],
        num_experts=setting["E"],
        hidden_dim=setting["H"],
        second_policy_train="all",
        capacity_factor_train=capacity(found),
    )
    layer.gate.w_gating.data = found["gate"]
    layer.experts.w1.data, layer.experts.w2.data = found["in"], found["out"]
    with torch.no_grad():
        sent = int(layer.gate(tokens)[0].sum())
        value = layer(tokens)[0].square().mean().item()

    def run(n):
        for _ in range(n):
            output, balance = layer(tokens)
            (output.square().mean() + balance).backward()

    return run, {"sent": sent, "value": value}


if __name__ == "__main__":
    serve(make, "mixture-of-experts", "torch")
