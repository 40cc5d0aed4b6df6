"""The runs inside a tree: a comparison's methods and seeds, or a run by itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import xarray as xr

RUN_GROUP = "routing"  # every finished run has it, nothing else does


class Run(NamedTuple):
    """One training: a method with one seed."""

    method: str
    seed: str
    tree: xr.DataTree
    error: str
    """Why it failed; empty for a run that finished."""


def runs(tree: xr.DataTree) -> list[Run]:
    """All runs of a comparison in its own order, or the one run that `tree` is.

    A comparison holds its runs at `tree["method/seed_0"]`. A run that failed is a node
    without groups whose attribute `error` says why.

    Raises:
        ValueError: the tree is neither.
    """
    if _is_run(tree):
        method = str(tree.attrs.get("method", tree.name or "model"))
        return [_run(method, f"seed_{tree.attrs.get('seed', 0)}", tree)]
    found = [
        _run(method, seed, node)
        for method, children in tree.children.items()
        for seed, node in children.children.items()
        if _is_run(node)
    ]
    if not found:
        raise ValueError(
            f"tree: got groups {list(tree.children)}, expected one run (with a group "
            f"{RUN_GROUP!r}) or a comparison (with runs at 'method/seed_0')"
        )
    return found


def finished(tree: xr.DataTree) -> dict[str, list[Run]]:
    """The runs that did not fail, by method.

    Raises:
        ValueError: every run failed.
    """
    by_method: dict[str, list[Run]] = {}
    for run in runs(tree):
        if not run.error:
            by_method.setdefault(run.method, []).append(run)
    if not by_method:
        errors = sorted({run.error for run in runs(tree)})
        raise ValueError(f"tree: every run failed ({'; '.join(errors)})")
    return by_method


def listed(tree: xr.DataTree, attr: str) -> list[Any]:
    """A root attribute that was stored as a JSON list; empty where there is none."""
    found = json.loads(tree.attrs.get(attr, "[]"))
    return found if isinstance(found, list) else []


def _run(method: str, seed: str, tree: xr.DataTree) -> Run:
    return Run(method, seed, tree, str(tree.attrs.get("error", "")))


def _is_run(tree: xr.DataTree) -> bool:
    return RUN_GROUP in tree.children or "error" in tree.attrs
