"""What is known of the information in routes, as one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .information import StreamedInformation
from .model_information import ModelInformation

if TYPE_CHECKING:
    import pandas as pd

SUM, WHOLE = "sum", "whole route"


def information_table(
    found: StreamedInformation | ModelInformation,
    *,
    names: Sequence[str] | None = None,
) -> pd.DataFrame:
    """One row a site, one for the sum over sites, one for whole routes if listed.

    Columns, in nats where no unit is said:

    - `n`: examples;
    - `h_a`, `h_b`, with the ends of their intervals (`h_a_low`, …), and `effective_a`,
      `effective_b` modules;
    - the bracket [`mi_lower`, `mi_upper`] of I(A;X), with the outer ends `mi_low`,
      `mi_high` of its intervals;
    - `cv_importance`, `cv_load`, `max_over_mean`, `dead`: see `Usage`; plain numbers;
    - of a model `in_turn`, H(A_l|A_<l,X); `mi_y_router` and `mi_y`, I(A;Y) under p(a|x)
      and p(a|x,y); `mi_y_given_x`, I(A;Y|X).

    The sum of `h_b` bounds the joint entropy H(A) from above. Informations have no sum
    over sites: it bounds nothing.

    Args:
        found: What `stream_information` or `model_information` returned.
        names: (n_layers,) of the sites; a model's own by default.

    Returns:
        A DataFrame indexed by `site`; NaN where a number does not apply. No number
        depends on the modules' labels.
    """
    import pandas as pd

    if isinstance(found, ModelInformation):
        sites, whole = found.sites, found.whole
        names = found.names if names is None else names
    else:
        sites, whole = found, None
    index = [str(i) for i in range(len(sites["h_a"]))] if names is None else list(names)
    table = pd.DataFrame(_columns(sites), index=index)
    use = sites["use"]
    for name in ("cv_importance", "cv_load", "max_over_mean", "dead"):
        table[name] = getattr(use, name)
    if isinstance(found, ModelInformation):
        _add_targets(table, found)
    summed = table.columns.intersection(["h_a", "h_b", "in_turn"])
    table.loc[SUM, summed] = table[summed].sum()
    table.loc[SUM, "n"] = sites["n"]
    if whole is not None:
        row = pd.DataFrame(_columns(whole), index=[WHOLE])
        if isinstance(found, ModelInformation) and found.whole_given_x is not None:
            row["mi_y_given_x"] = found.whole_given_x.mi
        table = pd.concat([table, row])
    return table.astype({"n": int}).rename_axis("site")


def _columns(info: StreamedInformation) -> dict[str, object]:
    """Entropies and information with their intervals."""
    h_a, h_b = info["h_a_interval"], info["h_b_interval"]
    return {
        "n": info["n"],
        "h_a": info["h_a"],
        "h_a_low": h_a[:, 0],
        "h_a_high": h_a[:, 1],
        "effective_a": info["effective_a"],
        "h_b": info["h_b"],
        "h_b_low": h_b[:, 0],
        "h_b_high": h_b[:, 1],
        "effective_b": info["effective_b"],
        "mi_low": info["mi_lower_interval"][:, 0],
        "mi_lower": info["mi_lower"],
        "mi_upper": info["mi_upper"],
        "mi_high": info["mi_upper_interval"][:, 1],
    }


def _add_targets(table: pd.DataFrame, found: ModelInformation) -> None:
    """What routes and targets tell of each other."""
    if found.in_turn is not None:
        table["in_turn"] = found.in_turn
    if found.router_labels is not None and found.posterior_labels is not None:
        table["mi_y_router"] = found.router_labels.mi
        table["mi_y"] = found.posterior_labels.mi
    if found.given_x is not None:
        table["mi_y_given_x"] = found.given_x.mi
