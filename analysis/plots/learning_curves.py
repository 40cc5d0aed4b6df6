"""How fast each method learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runs import by_method, finished
from .curves import Curves, collect, draw, seeds_note, smooth
from .style import StyledFigure, add_legend, add_note, method_looks, new_figure, style

if TYPE_CHECKING:
    import xarray as xr


def learning_curves(tree: xr.DataTree) -> StyledFigure:
    """Validation log-likelihood and training loss over steps, per method.

    The left panel compares methods. The right one shows each method's own objective,
    averaged over stretches of a hundredth of training: objectives differ, so its
    curves are compared with themselves only. Without validation data it stands alone.

    Args:
        tree: A comparison, or one run, with `training` groups.

    Raises:
        ValueError: No run finished, or none kept its history.
    """
    of = finished(tree)
    looks = method_looks(list(by_method(tree)))
    valid = {m: collect(found, "valid") for m, found in of.items()}
    losses = {m: smooth(collect(found, "loss")) for m, found in of.items()}
    window = max(length for _, length in losses.values())
    over = f", mean over {window} steps" if window > 1 else ""
    panels: list[tuple[str, str, dict[str, Curves]]] = [
        (
            "Training loss (own objective)",
            f"loss per example{over} (nats)",
            {method: curves for method, (curves, _) in losses.items()},
        )
    ]
    if any(curves.steps.size for curves in valid.values()):
        label = "log p(y|x) per example (nats), higher is better"
        panels.insert(0, ("Validation log-likelihood", label, valid))
    with style():
        title = f"How fast each method learns: {tree.attrs.get('task', 'one task')}"
        figure = new_figure(title, width=2.2 + 4.2 * len(panels), height=4.2)
        for axes, (name, label, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for method, drawn in curves.items():
                draw(axes, drawn, looks[method], label=method)
            axes.set(title=name, xlabel="step", ylabel=label)
        add_legend(figure, axes.get_lines())
        differ = " Losses of different methods are different objectives."
        add_note(figure, seeds_note(of) + (differ if len(of) > 1 else ""))
    return figure
