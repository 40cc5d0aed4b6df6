"""``latentroute train``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import PositiveInt

from . import launched
from .cli import PROG, UsageError
from .cli_choice import Choice, choose
from .cli_given import (
    add_output,
    load_task,
    make_method,
    make_regularisers,
    network_options,
    result_name,
    use_threads,
)
from .cli_options import (
    Seed,
    add_chosen,
    add_training,
    base_parser,
)
from .cli_output import (
    OPTIONS_FILE,
    RUN_FILE,
    finish,
    tell,
    writable_folder,
)
from .cli_parse import parse
from .files import write_whole

if TYPE_CHECKING:
    from .inference import Fit, Method
    from .inference.regularisers import Regulariser
    from .tasks import Task


def train(words: Sequence[str]) -> int:
    """``latentroute train``: one method and seed, with checkpoints."""
    choice = choose(words, "method")
    if len(choice.methods) != 1:
        raise UsageError(f"--method takes one name, got {', '.join(choice.methods)}")
    options, config = parse(_train_parser(choice), words, choice)
    (name,) = choice.methods
    what = make_method(name, options), make_regularisers(choice, options)
    default_out = f"runs/{result_name(choice, options)}-{name}"
    out = writable_folder(options.out or default_out)
    from .inference.signals import Stopped, sigterm_leaves

    line = f"SIGTERM: what was trained is saved in {out}, and --resume goes on"
    try:
        with sigterm_leaves(options.on_sigterm, line):
            return _train(choice, options, config, out, what, shlex.join(words))
    except Stopped as stopped:
        tell(stopped.message)
        return 0


def _train(
    choice: Choice,
    options: Namespace,
    config: str,
    out: Path,
    what: tuple[Method, Sequence[Regulariser]],
    words: str,
) -> int:
    """Load, train, evaluate, write; the exit code."""
    (name,), (method, parts) = choice.methods, what
    task = load_task(choice, options)
    from .inference.checkpoint import has_checkpoint

    if options.resume and not has_checkpoint(out):
        tell(f"no checkpoint in {out}: training begins at the first step")
    from .analysis import save, to_datatree

    use_threads(options.threads)
    result = _fit(task, method, parts, options, out)
    if launched.rank():  # process 0 has it all and writes it
        return 0
    write_whole(out / OPTIONS_FILE, config)
    tree = to_datatree(
        result.evaluated,
        task.test,
        draws=options.draws,
        seed=options.seed,
        history=result.history,
        attrs={
            **_attributes(task, options),
            "method": name,
            "config": repr(method),
            "wall_time": result.seconds,
            "command": f"{PROG} train {words}",
        },
        weight_draws=result.weight_draws,
    )
    saved = save(tree, out / RUN_FILE)
    tell(f"`{PROG} report {shlex.quote(str(out))}` draws its figures")
    return finish(tree, [saved], as_json=options.json)


def _fit(
    task: Task,
    method: Method,
    regularisers: Sequence[Regulariser],
    options: Namespace,
    out: Path,
) -> Fit:
    """Train the default network, with checkpoints under ``out``."""
    import torch

    from .inference import default_network, fit

    torch.manual_seed(options.seed)  # as compare does: its runs can be had again
    return fit(
        default_network(task, **network_options(options)),
        task,
        method,
        steps=options.steps,
        batch_size=options.batch_size,
        lr=options.lr,
        seed=options.seed,
        regularisers=regularisers,
        progress=True,
        checkpoint=out,
        checkpoint_every=options.checkpoint_every,
        resume=options.resume,
        on_sigterm=options.on_sigterm,
        tensorboard=out / "tensorboard" if options.tensorboard else None,
    )


def _attributes(task: Task, options: Namespace) -> dict[str, Any]:
    """What a run's file says of its task and training."""
    from .inference.prior import prior_log_likelihood

    return {
        "task": task.name,
        "description": task.description,
        "notes": list(task.notes),
        "prior_log_lik": prior_log_likelihood(task),
        "seed": options.seed,
        "steps": options.steps,
        "batch_size": options.batch_size,
        "lr": options.lr,
    }


def _train_parser(choice: Choice) -> ArgumentParser:
    parser = base_parser(
        "train",
        "Train by one method. Writes checkpoint.pt, metrics.jsonl and, at the end, "
        "run.nc under --out, and prints what was reached. Exit codes: 0 done, 2 bad "
        "usage or input, 1 anything else.",
        choice,
    )
    group = parser.add_argument_group("run")
    group.add_argument(
        "--method", type=str, default=choice.methods[0], help="inference method"
    )
    group.add_argument(
        "--seed",
        type=Seed,
        default=0,
        metavar="INT",
        help="of weights, batches and samples",
    )
    add_output(group, "runs/TASK-METHOD")
    group.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint under --out if there is one",
    )
    group.add_argument(
        "--checkpoint-every",
        type=PositiveInt,
        default=200,
        metavar="INT",
        help="steps between checkpoints",
    )
    group.add_argument(
        "--on-sigterm",
        type=Literal["save"] | None,
        help="`save`: SIGTERM saves a checkpoint and ends with exit code 0, for "
        "machines that are taken back (default: it ends the process)",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="write what is measured to --out/tensorboard too",
    )
    add_training(parser, choice)
    add_chosen(parser, choice)
    return parser
