"""How fast each method learns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..runs import finished
from .curves import Curves, collect, draw, seeds_note, smooth
from .style import StyledFigure, add_note, method_looks, new_figure, style

if TYPE_CHECKING:
    import xarray as xr


def learning_curves(tree: xr.DataTree) -> StyledFigure:
    """Validation log-likelihood and training loss over steps, per method.

    The left panel compares methods. The right one shows each method's own objective,
    averaged over stretches of a hundredth of training: objectives differ, so its
    curves are compared with themselves only. Without validation data it stands alone.

    Args:
        tree: a comparison, or one run, with `training` groups.

    Raises:
        ValueError: no run finished, or none kept its history.
    """
    by_method = finished(tree)
    looks = method_looks(list(by_method))
    valid = {m: collect(of_method, "valid") for m, of_method in by_method.items()}
    losses = {m: smooth(collect(of_method, "loss")) for m, of_method in by_method.items()}
    window = max(length for _, length in losses.values())
    over = f", mean over {window} steps" if window > 1 else ""
    panels: list[tuple[str, str, dict[str, Curves]]] = [
        (
            "Training loss: each method's own objective",
            f"loss per example{over} (nats)",
            {method: curves for method, (curves, _) in losses.items()},
        )
    ]
    if any(curves.steps.size for curves in valid.values()):
        label = "log p(y|x) per validation example (nats)"
        panels.insert(0, ("Validation log-likelihood: higher is better", label, valid))
    with style():
        title = f"How fast each method learns: {tree.attrs.get('task', 'one task')}"
        figure = new_figure(title, width=1 + 4.4 * len(panels), height=4.2)
        for axes, (name, label, curves) in zip(
            figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
        ):
            for method, of_method in curves.items():
                draw(axes, of_method, looks[method], label=method)
            axes.set(title=name, xlabel="step", ylabel=label)
        lines = [line for line in axes.get_lines()]
        figure.legend(handles=lines, loc="outside right upper", title="method")
        add_note(figure, seeds_note(by_method))
    return figure
