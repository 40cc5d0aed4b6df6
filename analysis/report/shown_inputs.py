"""What the explorer draws of a run's examples: inputs, targets, true routes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..groups import dataset
from ..plots.shown import true_routes
from ..runs import is_classification, listed

if TYPE_CHECKING:
    import xarray as xr

Rows = NDArray[np.intp]

MOST_FEATURES: Final = 64
MOST_OUTPUTS: Final = 12
MOST_SIDE: Final = 56  # pixels of a picture's longer side: of larger ones every k-th
DIGITS: Final = 4  # significant ones of a number


def shown_inputs(tree: xr.DataTree, rows: Rows) -> dict[str, Any]:
    """Inputs, targets and true routes of some examples, as JSON knows them.

    Args:
        tree: A run.
        rows: Which examples.

    Returns:
        - `n`: examples in all; `rows`: which these are;
        - `picture`: `height`, `width`, `step` (1: every pixel) and `bytes` (base64, an
          example after the other, a byte a pixel, 255 the largest x), or None;
        - `features`: `names`, `mean` and `sd` over all examples, `values` (a row an
          example) and `of`, how many there are, or None;
        - `shape`: of an x that is drawn as neither, or None;
        - `y`: class numbers, or rows of outputs, or None; `classes`: their names;
        - `routes`: true modules in their own labels, a row an example, or None.
    """
    found: dict[str, Any] = {
        "n": dataset(tree, "routing").sizes["obs"],
        "rows": rows.tolist(),
        "classes": [str(name) for name in listed(tree, "class_names")],
        "y": _targets(tree, rows),
        "routes": None,
    }
    truth = true_routes(tree)
    if truth is not None:
        found["routes"] = truth[rows].tolist()
    return found | _inputs(tree, rows)


def decimals(values: NDArray[Any], digits: int = DIGITS) -> Any:
    """Numbers of any shape as nested lists, rounded; None where not finite."""
    if values.ndim:
        return [decimals(row, digits) for row in values]
    value = float(values)
    return float(f"{value:.{digits}g}") if np.isfinite(value) else None


def _inputs(tree: xr.DataTree, rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {"picture": None, "features": None, "shape": None}
    given = dataset(tree, "constant_data") if "constant_data" in tree.children else {}
    if "x" not in given:
        return found
    x = np.asarray(given["x"].transpose("obs", ...).values, dtype=np.float64)
    shape = [int(side) for side in listed(tree, "image_shape")]
    if len(shape) == 2 and x.ndim == 2 and x.shape[1] == np.prod(shape):
        x = x.reshape(len(x), *shape)
    if x.ndim == 3:
        found["picture"] = _picture(x, rows)
    elif x.ndim <= 2:
        names = [str(name) for name in listed(tree, "feature_names")]
        found["features"] = _features(x.reshape(len(x), -1), names, rows)
    else:
        found["shape"] = list(x.shape[1:])
    return found


def _picture(x: NDArray[np.float64], rows: Rows) -> dict[str, Any]:
    """Pixels as bytes; the scale is that of all examples."""
    x = np.nan_to_num(x, posinf=0.0, neginf=0.0)
    low, high = float(x.min()), float(x.max())
    step = -(-max(x.shape[1:]) // MOST_SIDE)
    drawn = x[rows, ::step, ::step]
    pixels = np.rint(255 * (drawn - low) / (high - low if high > low else 1.0))
    return {
        "height": drawn.shape[1],
        "width": drawn.shape[2],
        "step": step,
        "bytes": base64.b64encode(pixels.astype(np.uint8).tobytes()).decode("ascii"),
    }


def _features(x: NDArray[np.float64], names: list[str], rows: Rows) -> dict[str, Any]:
    """Values by name, and what is usual."""
    count = x.shape[1]
    if len(names) != count:
        names = [f"x{i}" for i in range(count)]
    some = x[:, :MOST_FEATURES]
    return {
        "names": names[:MOST_FEATURES],
        "of": count,
        "mean": decimals(some.mean(0)),
        "sd": decimals(some.std(0)),
        "values": decimals(some[rows]),
    }


def _targets(tree: xr.DataTree, rows: Rows) -> Any:
    """(N,) class numbers, or (N, outputs), of which the first few."""
    if "observed_data" not in tree.children:
        return None
    y = dataset(tree, "observed_data")["y"].transpose("obs", ...).values[rows]
    if is_classification(tree):
        return y.astype(np.int64).tolist()
    return decimals(y.reshape(len(rows), -1)[:, :MOST_OUTPUTS])
