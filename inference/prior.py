"""What is known of targets without looking at inputs."""

from __future__ import annotations

from typing import Any

import torch


def prior_log_likelihood(task: Any) -> float:
    """Mean test log p(y) under a prior fitted to the training targets alone, in nats.

    Categorical: class shares, each class counted once more than seen. Bernoulli: the
    same an output. Normal: mean and variance an output.
    """
    train, test = task.train.y, task.test.y
    if task.head == "categorical":
        counts = torch.bincount(train, minlength=task.out_features) + 1.0
        return float(torch.log(counts / counts.sum())[test].mean())
    if task.head == "bernoulli":
        p = (train.sum(0) + 1) / (len(train) + 2)
        return float((test * p.log() + (1 - test) * (1 - p).log()).sum(-1).mean())
    fitted = torch.distributions.Normal(train.mean(0), train.std(0).clamp_min(1e-6))
    return float(fitted.log_prob(test).sum(-1).mean())
