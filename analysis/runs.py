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

    @property
    def applies(self) -> bool:
        """Whether the method applies to the model; if not, it was not trained."""
        return bool(self.tree.attrs.get("applies", 1))


def runs(tree: xr.DataTree) -> list[Run]:
    """All runs of a comparison in its own order, or the one run that `tree` is.

    A comparison holds its runs at `tree["method/seed_0"]`. A run that failed is a node
    without groups whose attribute `error` says why.

    Raises:
        ValueError: The tree is neither.
    """
    if _is_run(tree):
        method = str(tree.attrs.get("method", tree.name or "model"))
        return [_run(method, _seed_name(tree), tree)]
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


def by_method(tree: xr.DataTree) -> dict[str, list[Run]]:
    """All runs by method, failed ones among them.

    Raises:
        ValueError: The tree is neither run nor comparison, or every run failed.
    """
    found: dict[str, list[Run]] = {}
    for run in runs(tree):
        found.setdefault(run.method, []).append(run)
    if all(run.error for of_method in found.values() for run in of_method):
        errors = sorted({run.error for run in runs(tree)})
        raise ValueError(f"tree: every run failed ({'; '.join(errors)})")
    return found


def finished(tree: xr.DataTree) -> dict[str, list[Run]]:
    """The runs that did not fail, by method; methods without one are left out.

    Raises:
        ValueError: The tree is neither run nor comparison, or every run failed.
    """
    alive = {
        method: [run for run in of_method if not run.error]
        for method, of_method in by_method(tree).items()
    }
    return {method: of_method for method, of_method in alive.items() if of_method}


def is_classification(tree: xr.DataTree) -> bool:
    """Whether a run's targets are classes."""
    return "predictive_probs" in tree.children


def listed(tree: xr.DataTree, attr: str) -> list[Any]:
    """A root attribute that was stored as a JSON list; empty where there is none."""
    found = json.loads(tree.attrs.get(attr, "[]"))
    return found if isinstance(found, list) else []


def _seed_name(tree: xr.DataTree) -> str:
    """`seed_0`; of joined chains `seeds_0_1`."""
    if seeds := listed(tree, "seeds"):
        return "_".join(["seeds", *map(str, seeds)])
    return f"seed_{tree.attrs.get('seed', 0)}"


def _run(method: str, seed: str, tree: xr.DataTree) -> Run:
    return Run(method, seed, tree, str(tree.attrs.get("error", "")))


def _is_run(tree: xr.DataTree) -> bool:
    return RUN_GROUP in tree.children or "error" in tree.attrs
