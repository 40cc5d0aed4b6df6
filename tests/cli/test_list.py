"""`latentroute methods` and `latentroute tasks`."""

import json

import pytest

from latentroute.cli import main
from latentroute.inference import METHODS
from latentroute.tasks import TASKS


@pytest.mark.parametrize("table", ["methods", "tasks"])
def test_json_lists_everything_on_stdout_alone(table, capsys):
    assert main([table, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found = json.loads(out)
    assert list(found) == list(METHODS if table == "methods" else TASKS)
    assert all(entry["summary"] for entry in found.values())


def test_methods_say_what_they_are_unbiased_for(capsys):
    main(["methods", "--json"])
    found = json.loads(capsys.readouterr().out)
    for name, method in METHODS.items():
        assert found[name]["unbiased_for"] == method.unbiased_for
    assert found["score-function"]["options"]["n_samples"] == 8


def test_the_plain_table_has_a_row_a_method_and_is_not_folded(capsys):
    assert main(["methods"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(METHODS)
    assert all(line == line.rstrip() for line in lines)


def test_tasks_name_the_way_to_ones_own_data(capsys):
    assert main(["tasks"]) == 0
    assert "\n--data FILE  " in capsys.readouterr().out
