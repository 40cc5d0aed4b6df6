"""``latentroute gradients``: how good each method's gradient is."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from .cli import PROG
from .cli_choice import Choice, choose
from .cli_given import (
    add_methods,
    load_task,
    make_method,
    network_options,
    result_name,
)
from .cli_options import Seed, add_chosen, base_parser
from .cli_output import (
    OPTIONS_FILE,
    print_json,
    print_table,
    tell,
    writable_folder,
)
from .cli_parse import parse
from .files import write_whole

if TYPE_CHECKING:
    import pandas as pd

    from .models import LayeredNetwork
    from .tasks import Split, Task

TABLE_FILE, FIGURE_FILE = "gradients.csv", "gradients.png"
SMALL = {"n_layers": 2, "n_modules": 3, "hidden_features": 6}
COLUMNS = (
    ("method", "method"),
    ("objective", "target"),
    ("it claims", "claim"),
    ("found", "verdict"),
    ("bias", "bias"),
    ("+-", "bias_error"),
    ("variance", "variance"),
    ("cosine", "cosine"),
    ("ms a draw", "time"),
    ("variance x time", "relative_cost"),
    ("router: found", "router_verdict"),
    ("bias", "router_bias"),
    ("variance", "router_variance"),
)


def gradients(words: Sequence[str]) -> int:
    """``latentroute gradients``: a table, a CSV and a figure; 1 if a claim is wrong."""
    choice = choose(words, "methods")
    options, config = parse(_parser(choice), words, choice)
    methods = {name: make_method(name, options) for name in choice.methods}
    default_out = f"runs/{result_name(choice, options)}-gradients"
    out = writable_folder(options.out or default_out)
    task = load_task(choice, options)
    from .analysis import gradient_report
    from .analysis.plots import gradient_league, save_figure

    table = gradient_report(
        _small_network(task, options),
        _in_float64(task.train),
        methods,
        options.draws,
        n_examples=options.examples,
        seed=options.seed,
        progress=True,
    )
    table.attrs["command"] = shlex.join([PROG, "gradients", *words])
    write_whole(out / OPTIONS_FILE, config)
    write_whole(out / TABLE_FILE, table.to_csv(index=False))
    figure = save_figure(gradient_league(table), out / FIGURE_FILE)
    _print(table, task, as_json=options.json, files=[out / TABLE_FILE, figure])
    tell(f"wrote {out / TABLE_FILE} and {figure}")
    for name, reason in table.attrs["left_out"].items():
        tell(f"{PROG}: {name} does not apply: {reason}")
    for name in table.attrs["refuted"]:
        tell(f"{PROG}: failed: {name} claims no bias, and has one")
    return 1 if table.attrs["refuted"] else 0


def _small_network(task: Task, options: Namespace) -> LayeredNetwork:
    """A network small enough to be run at every route."""
    import torch

    from .inference import default_network

    torch.manual_seed(options.seed)
    return default_network(task, **{**SMALL, **network_options(options)}).double()


def _in_float64(split: Split) -> tuple[Any, Any]:
    y = split.y
    return split.x.double(), y.double() if y.is_floating_point() else y


def _print(table: pd.DataFrame, task: Task, *, as_json: bool, files: list[Any]) -> None:
    if as_json:
        records = table.astype(object).where(table.notna(), None).to_dict("records")
        print_json(
            {"task": task.name, "gradients": records, **table.attrs}
            | {"files": [str(path) for path in files]}
        )
        return
    rows = [
        [_cell(row[name], name) for _, name in COLUMNS] for _, row in table.iterrows()
    ]
    print_table([heading for heading, _ in COLUMNS], rows)


def _cell(value: Any, name: str) -> str:
    """A number in three digits."""
    if not isinstance(value, float):
        return str(value)
    return f"{1e3 * value:.2f}" if name == "time" else f"{value:.3g}"


def _parser(choice: Choice) -> ArgumentParser:
    parser = base_parser(
        "gradients",
        "Measure the gradients of methods on a few training examples of a task, with a "
        "small network that brute force can run at every route: bias, variance and "
        f"time. Writes {TABLE_FILE}, {FIGURE_FILE} and the options (config.yaml) under "
        "--out, and prints the table. Exit codes: 0 done, 2 bad usage or input, 1 "
        "anything else, such as a method that claims no bias and has one.",
        choice,
    )
    group = parser.add_argument_group("gradients")
    add_methods(group, choice)
    counts = (
        ("draws", 2000, "gradient draws of each method; 20000 for a proof"),
        ("examples", 8, "training examples, the first of the task's"),
    )
    for name, default, text in counts:
        group.add_argument(
            f"--{name}", type=PositiveInt, default=default, metavar="INT", help=text
        )
    group.add_argument(
        "--seed",
        type=Seed,
        default=0,
        metavar="INT",
        help="of weights and draws",
    )
    group.add_argument(
        "--out",
        type=str | None,
        metavar="DIR",
        help="folder to write to, made if it is missing (default: runs/TASK-gradients)",
    )
    group.add_argument("--json", action="store_true", help="JSON in place of a table")
    add_chosen(parser, choice)
    return parser
