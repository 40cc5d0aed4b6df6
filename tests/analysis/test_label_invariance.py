"""Renaming modules changes no number in any table, whatever the probabilities."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latentroute.analysis import (
    information,
    information_table,
    label_table,
    recovered,
    specialisation,
    stream_information,
    surprise,
    truth,
    truth_table,
    usage,
)
from latentroute.analysis.labels import table_information

N, LAYERS, MODULES, RULES = 24, 2, 4, 3


def routing(seed, kind):
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.full(MODULES, 0.3), (N, LAYERS))
    if kind == "one-hot":
        return np.eye(MODULES)[soft.argmax(-1)]
    if kind == "tied":
        return np.where(soft >= np.sort(soft, -1)[..., -2:-1], 0.5, 0.0)
    return soft


def numbers(probs, posterior, true, y):
    """Every number without a module axis; those with one, in an order of their own."""
    streamed = stream_information(np.split(probs, 3), replicates=20)
    info = {k: v for k, v in streamed.items() if k not in ("use", "level")}
    labels = label_table(posterior, y)
    use = usage(probs)
    against = truth(posterior, true)
    found = {f"information {k}": v for k, v in information(probs).items()}
    found |= {f"stream {k}": v for k, v in info.items()}
    found |= {f"use {k}": np.sort(v, -1) for k, v in use._asdict().items()}
    found |= {f"truth {k}": v for k, v in against._asdict().items()}
    found["labels"] = np.sort(labels.joint, -1)
    found["mi y"] = labels.mi
    found["table mi"] = table_information(labels.joint)
    found["surprise"] = np.stack(surprise(posterior, probs)[:2])
    found["specialisation"] = np.array(specialisation(posterior[:RULES, 0]))
    found["recovered"] = recovered(posterior.argmax(-1), true).accuracy
    return found, information_table(streamed), truth_table([against, against])


@pytest.mark.parametrize("kind", ["soft", "one-hot", "tied"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_renamed_modules(kind, seed):
    rng = np.random.default_rng(seed + 1)
    probs, posterior = routing(seed, kind), routing(seed + 2, "soft")
    true, y = rng.integers(0, RULES, (N, LAYERS)), rng.integers(0, 3, N)
    names = np.stack([rng.permutation(MODULES) for _ in range(LAYERS)])
    order = np.broadcast_to(names, probs.shape)
    renamed = [np.take_along_axis(p, order, -1) for p in (probs, posterior)]
    before, *tables = numbers(probs, posterior, true, y)
    # both layers of specialisation() and recovered() are renamed with the rest
    after, *renamed_tables = numbers(*renamed, true, y)
    for name, value in before.items():
        np.testing.assert_allclose(
            after[name], value, rtol=1e-9, atol=1e-12, err_msg=name
        )
    for table, other in zip(tables, renamed_tables, strict=True):
        pd.testing.assert_frame_equal(table, other, rtol=1e-9, atol=1e-12)


def test_a_number_that_depends_on_labels_would_be_seen():
    """Negative control: the mean label, and the first of tied modules."""
    probs = routing(0, "tied")
    renamed = probs[..., [2, 0, 3, 1]]
    assert probs.argmax(-1).mean() != renamed.argmax(-1).mean()
    first = np.eye(MODULES)[probs.argmax(-1)].mean(0)
    first_renamed = np.eye(MODULES)[renamed.argmax(-1)].mean(0)
    assert not np.allclose(np.sort(first), np.sort(first_renamed))
