"""st-moe-pytorch's layer, forward and backward: two experts a token, none full.

Its own experts are gated and normalised; it is given those of the other layers.
"""

import torch
from served import capacity, experts_problem, serve
from st_moe_pytorch import MoE
from torch import nn

torch.set_num_threads(1)


def make(setting):
    found = {k: torch.tensor(v) for k, v in experts_problem(setting).items()}
    tokens = found["tokens"].requires_grad_()
    d, h = setting["D"], setting["H"]
    experts = nn.ModuleList(
        nn.Sequential(
            nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, d, bias=False)
        )
        for _ in range(setting["E"])
    )
    for expert, into, out in zip(experts, found["in"], found["out"], strict=True):
        expert[0].weight.data, expert[2].weight.data = into.T, out.T
    layer = MoE(
        d,
        num_experts=setting["E"],
        gating_top_n=2,
        threshold_train=0.0,
        capacity_factor_train=capacity(found),
        experts=experts,
    )
    layer.gate.to_gates.weight.data = found["gate"].T
    with torch.no_grad():
        sent = round(layer.gate(tokens)[0].sum().item())
        value = layer(tokens)[0].square().mean().item()

    def run(n):
        for _ in range(n):
            output, auxiliary, *_ = layer(tokens)
            (output.square().mean() + auxiliary).backward()

    return run, {"sent": sent, "value": value}


if __name__ == "__main__":
    serve(make, "st-moe-pytorch", "torch")
