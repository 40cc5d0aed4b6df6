"""Every method, the command line, and Lightning Fabric."""

import warnings

import torch

from latentroute import cli
from latentroute.inference import METHODS, CollapseWarning, SingleProcess
from latentroute.models import LayeredNetwork
from tests.distributed.shared import (
    FOLDER,
    RANK,
    check,
    digits,
    error,
    flat,
    losses,
    make_net,
    refusal,
    trained,
)


@check
def every_method():
    """Weights are the same in both processes, or the method is refused in one line."""
    found = {}
    for name in METHODS:
        torch.manual_seed(RANK)  # another start in each: that of process 0 counts
        net = LayeredNetwork(64, 10, n_layers=2, n_modules=3, hidden_features=4)
        try:
            result = trained(None, name, net=net, steps=2, data=digits(21))
        except ValueError as refused:
            found[name] = str(refused)
            continue
        shared = list(result.objective.parameters())
        for part in result.objective.modules():
            shared += [getattr(part, row) for row in getattr(part, "row_buffers", ())]
        found[name] = flat(shared).nan_to_num().tolist()
    return found


@check
def collapsed():
    """How often each process warns of a router that gives all to one module."""
    net = make_net()
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "router" in name:
                parameter.zero_()
                parameter[..., :1] = 9.0 * (parameter.ndim == 1)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", CollapseWarning)
        trained(None, "exact", net=net, steps=3, lr=1e-6, log_every=1)
    return {"told": len(told)}


@check
def command_line():
    """One call in each process: ``latentroute train``, and a command of one process."""
    out = FOLDER / "train"
    words = ["train", "--task", "digits", "--steps", "4", "--out", str(out)]
    code = cli.main([*words, "--draws", "4", "--network.hidden_features", "8"])
    refused = cli.main(["compare", "--task", "digits"])
    return {"code": code, "refused": refused, "closed": _closed()}


def _closed():
    return not torch.distributed.is_initialized()


@check
def fabric():
    """Last: its group stays open to the end."""
    try:
        import lightning_fabric
    except ImportError:
        return {"missing": True}
    from latentroute.inference import Fabric

    def launched(strategy):
        made = lightning_fabric.Fabric(
            accelerator="cpu", devices=2, num_nodes=1, strategy=strategy
        )
        made.launch()
        return Fabric(made)

    right = launched("ddp_find_unused_parameters_true")
    one = trained(SingleProcess(), "mean-field")
    two = trained(right, "mean-field")
    return {
        "weights": error(flat(two.model.parameters()), flat(one.model.parameters())),
        "losses": error(losses(two), losses(one)),
        "refusal": refusal(lambda: trained(launched("ddp"), "exact")),
    }
