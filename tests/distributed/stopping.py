"""Stopped and gone on with: checkpoints of several processes, SIGTERM."""

import json
import os
import signal

import torch

from latentroute.inference import SingleProcess
from tests.distributed.shared import (
    FOLDER,
    RANK,
    check,
    error,
    flat,
    losses,
    make_net,
    refusal,
    trained,
)


@check
def folder_of_its_own():
    """A checkpoint that one process alone sees."""
    folder = FOLDER / f"own_{RANK}"
    if RANK == 0:
        trained(SingleProcess(), "exact", steps=3, checkpoint=folder)
    return refusal(lambda: trained(None, "exact", checkpoint=folder, resume=True))


@check
def resumed():
    """Stopped and gone on with, bit for bit, random streams and all."""
    settings = {"n_samples": 4, "log_every": 1}
    whole = trained(None, "score-function", steps=12, **settings)
    folder = FOLDER / "resumed"
    trained(None, "score-function", steps=5, checkpoint=folder, **settings)
    settings |= {"resume": True, "checkpoint": folder}
    other = make_net(seed=9, router_input="input")
    again = trained(None, "score-function", net=other, steps=12, **settings)
    rows = (folder / "metrics.jsonl").read_text().splitlines()
    streams = torch.load(folder / "checkpoint.pt", weights_only=True)["processes"]
    return {
        "same": torch.equal(
            flat(again.model.parameters()), flat(whole.model.parameters())
        ),
        "losses": losses(again).tolist() == losses(whole).tolist(),
        "steps": [json.loads(row)["step"] for row in rows],
        "streams": len({tuple(s["random stream"].tolist()) for s in streams}),
        "files": sorted(p.name for p in folder.iterdir()),
    }


@check
def another_number_of_processes():
    """A checkpoint of one process gone on from by two, and theirs by one."""
    settings = {"checkpoint": FOLDER / "number"}
    if RANK == 0:
        trained(SingleProcess(), "exact", steps=3, **settings)
    trained(None, "exact", steps=1)  # they wait for each other
    settings["resume"] = True
    whole = trained(SingleProcess(), "exact", steps=9)
    two = trained(None, "exact", **settings)
    found = {"two_after_one": error(losses(two), losses(whole)[: len(two.history)])}
    if RANK == 0:
        one = trained(SingleProcess(), "exact", steps=9, **settings)
        found["one_after_two"] = error(losses(one), losses(whole))
    return found


@check
def stopped_by_sigterm():
    """It reaches process 1 alone; both save and leave after the same step."""
    net, calls = make_net(), []

    def terminate(*args):
        calls.append(1)
        if RANK == 1 and len(calls) == 9:
            os.kill(os.getpid(), signal.SIGTERM)

    net.head.register_forward_pre_hook(terminate)
    folder = FOLDER / "sigterm"
    try:
        trained(
            None,
            "exact",
            net=net,
            steps=10**6,
            checkpoint=folder,
            on_sigterm="save",
        )
    except SystemExit as stopped:
        return {"code": stopped.code, "message": stopped.message}
    return {}
