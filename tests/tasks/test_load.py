import pytest

from latentroute.tasks import TASKS, load


def test_unknown_task_lists_the_names():
    with pytest.raises(ValueError, match="did you mean 'digits'") as caught:
        load("digit")
    assert all(repr(name) in str(caught.value) for name in TASKS)
    assert "got 'digit'" in str(caught.value)


def test_unknown_option_lists_the_options():
    with pytest.raises(ValueError, match=r"no option 'n_rule'.*'kind'.*'n_rules'"):
        load("rules", n_rule=3)


def test_needed_option():
    with pytest.raises(ValueError, match="task 'table' needs the option 'path'"):
        load("table", target="y")


def test_options_reach_the_task():
    task = load("composition", n_layers=3, n_modules=2, features=4, n_train=7)
    assert task.in_features == 4 + 3 * 2
    assert len(task.train.x) == 7
    assert task.network["n_layers"] == 3
