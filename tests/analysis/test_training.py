"""Rows of a history as labelled arrays."""

import numpy as np
import pytest

from latentroute.analysis.training import training_group


def test_steps_and_logged_steps(history):
    rows = history(steps=40, log_every=10, n_sites=2)
    group, coords = training_group(rows, 2)
    assert group.sample_dims == ["chain"]
    assert coords["step"].tolist() == list(range(1, 41))
    assert coords["log_step"].tolist() == [10, 20, 30, 40]
    dims = {name: dims for name, (dims, _) in group.variables.items()}
    assert dims["loss"] == ["step"]
    assert dims["h_a"] == dims["valid"] == dims["seconds"] == ["log_step"]
    assert dims["h_b_layers"] == ["log_step", "site"]
    loss = group.variables["loss"][1]
    assert loss.shape == (1, 40)
    np.testing.assert_array_equal(loss[0], [row["loss"] for row in rows])
    layers = group.variables["h_a_layers"][1]
    np.testing.assert_array_equal(layers[0, 2], rows[29]["h_a_layers"])


def test_dims_do_not_depend_on_how_often_it_was_logged(history):
    group, coords = training_group(history(steps=5, log_every=1), 2)
    assert group.variables["h_a"][0] == ["log_step"]
    assert coords["log_step"].tolist() == coords["step"].tolist()


def test_missing_values_are_nan():
    rows = [
        {"step": 1, "loss": 2.0, "h_a": 0.5, "valid": -1.0},
        {"step": 2, "loss": 1.0, "h_a": 0.4},
        {"step": 3, "loss": 0.5},
    ]
    group, coords = training_group(rows, 1)
    assert coords["log_step"].tolist() == [1, 2]
    np.testing.assert_array_equal(group.variables["valid"][1], [[-1.0, np.nan]])


def test_only_losses():
    group, coords = training_group([{"step": 1, "loss": 2.0}], 1)
    assert set(group.variables) == {"loss"}
    assert coords["log_step"].size == 0


@pytest.mark.parametrize("rows", [[], [{"loss": 1.0}]])
def test_refusals(rows):
    with pytest.raises(ValueError, match=r"history: got \d rows, expected one or more"):
        training_group(rows, 1)
