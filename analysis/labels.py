"""Which label uses which module, and what one tells of the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from . import streaming
from .arrays import entropy, to_numpy

CLASS_KINDS = "biuUS"  # NumPy's flags, integers and strings

Floats = NDArray[np.float64]


class LabelTable(NamedTuple):
    """Labels against modules, per layer.

    Attributes:
        labels: (C,) the labels that occur, sorted.
        joint: (L, C, M) mean over examples of 1[y_n = c] p(a_l = m): sums to one.
        mi: (L,) I(A_l; Y) of the joint table, in nats. Biased high, by at most about
            (C - 1) (M - 1) / (2 N) where modules and labels are independent.
        n: Examples.
    """

    labels: NDArray[Any]
    joint: Floats
    mi: Floats
    n: int

    def given_label(self) -> Floats:
        """(L, C, M) p(module | label): each row sums to one."""
        return np.asarray(self.joint / self.joint.sum(-1, keepdims=True))


class Surprise(NamedTuple):
    """How much y moves the routes of an example whose x is known.

    Attributes:
        mi: (L,) mean_n KL(p(a_l|x_n,y_n) || p(a_l|x_n)) in nats: I(A_l; Y | X).
        error: (L,) its standard error over examples; NaN for one example.
        n: Examples.
    """

    mi: Floats
    error: Floats
    n: int


class LabelSums:
    """What examples of each label add up to; its size is that of the table."""

    def __init__(self) -> None:
        self.n = 0
        self.by_label: dict[Any, Floats] = {}

    def add(self, probs: Any, labels: Any) -> None:
        """Count in (n, L, M) probabilities and (n,) labels."""
        rows, y = to_numpy(probs), _labels(labels, len(to_numpy(probs)))
        start = 0
        for p in streaming.rows_of(rows):
            part = y[start : start + len(p)]
            start += len(p)
            for label in np.unique(part):
                total = self.by_label.get(label.item(), 0.0)
                self.by_label[label.item()] = total + p[part == label].sum(0)
        self.n += len(y)

    def table(self) -> LabelTable:
        """The table of what was counted."""
        labels = sorted(self.by_label)
        joint = np.stack([self.by_label[label] for label in labels], 1) / self.n
        return LabelTable(np.array(labels), joint, table_information(joint), self.n)


class SurpriseSums:
    """What KL(p(a|x,y) || p(a|x)) of examples adds up to."""

    def __init__(self) -> None:
        self.n = 0
        self.mean: Floats = np.zeros(())
        self.squares: Floats = np.zeros(())  # summed squares of distances to the mean

    def add(self, posterior: Any, router: Any) -> None:
        """Count in two (n, L, M) sets of probabilities of the same examples."""
        for p, q in zip(
            streaming.rows_of(posterior), streaming.rows_of(router), strict=True
        ):
            each = divergence(p, q)  # (n, L)
            n, mean = len(each), each.mean(0)
            step, total = mean - self.mean, self.n + n
            with np.errstate(invalid="ignore"):  # inf - inf: no spread to speak of
                squares = ((each - mean) ** 2).sum(0)
                self.squares = self.squares + squares + step**2 * self.n * n / total
                self.mean = self.mean + step * n / total
            self.n = total

    def surprise(self) -> Surprise:
        """Mean and standard error of what was counted."""
        spread = np.full_like(self.mean, np.nan)
        if self.n > 1:
            spread = np.sqrt(self.squares / (self.n - 1) / self.n)
        return Surprise(self.mean, spread, self.n)


def label_table(probs: Any, labels: Any) -> LabelTable:
    r"""Which label uses which module, and I(A;Y).

    .. math::
        \hat p(c, m) = \tfrac1N \sum_n 1[y_n = c]\, p(a = m \mid \cdot_n), \quad
        I(A;Y) = \sum_{c,m} \hat p(c, m) \log
            \frac{\hat p(c, m)}{\hat p(c)\, \hat p(m)}

    With p(a|x_n) it says how much the router's choice, made without y, tells of the
    label; with the posterior p(a|x_n,y_n) it is the model's own I(A;Y).

    Args:
        probs: (N, n_modules) or (N, n_layers, n_modules).
        labels: (N,) classes: integers, strings or flags.

    Returns:
        The table, always with a layer axis.

    Raises:
        ValueError: No probabilities, or labels that are no classes of these examples.

    Example:
        >>> import numpy as np
        >>> table = label_table(np.eye(2)[[0, 0, 1, 1]], ["a", "a", "b", "b"])
        >>> table.labels.tolist(), round(float(table.mi[0]), 4)
        (['a', 'b'], 0.6931)
    """
    sums = LabelSums()
    sums.add(probs, labels)
    return sums.table()


def surprise(posterior: Any, router: Any) -> Surprise:
    r"""What y tells of the route once x is known, I(A;Y|X).

    .. math::
        I(A_l; Y \mid X) = E_{x,y} \sum_a p(a \mid x, y)
            \log \frac{p(a \mid x, y)}{p(a \mid x)}

    The mean over observed (x_n, y_n): an unbiased estimate of the model's I(A_l;Y|X)
    where the data come from the model, and otherwise how far the observed targets move
    its routes. With I(A;X) it adds up to I(A;X,Y). Infinite where the router excludes
    what the posterior does not (never for exact ones of the same model).

    Args:
        posterior: (N, n_modules) or (N, n_layers, n_modules), p(a_l|x_n,y_n).
        router: The same shape, p(a_l|x_n).

    Returns:
        Mean and standard error per layer, always with a layer axis.

    Raises:
        ValueError: No probabilities, or shapes that differ.

    Example:
        >>> found = surprise([[1.0, 0.0], [0.5, 0.5]], [[0.5, 0.5], [0.5, 0.5]])
        >>> round(float(found.mi[0]), 4)
        0.3466
    """
    p, q = to_numpy(posterior), to_numpy(router)
    if p.shape != q.shape:
        raise ValueError(f"surprise: got shapes {p.shape} and {q.shape}, expected one")
    sums = SurpriseSums()
    sums.add(p, q)
    return sums.surprise()


def table_information(joint: Floats) -> Floats:
    """I(row; column) in nats of joint tables (*batch, C, M) that sum to one."""
    rows, columns = entropy(joint.sum(-1)), entropy(joint.sum(-2))
    together = entropy(joint.reshape(*joint.shape[:-2], -1))
    return np.asarray(np.maximum(rows + columns - together, 0.0))


def divergence(p: Floats, q: Floats) -> Floats:
    """KL(p || q) in nats over the last axis: 0 where p is, infinite where only q is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    return np.asarray(np.maximum(terms.sum(-1), 0.0))


def _labels(labels: Any, n: int) -> NDArray[Any]:
    """(n,) classes, or an error."""
    y = to_numpy(labels)
    if y.shape != (n,):
        raise ValueError(f"labels: got shape {y.shape}, expected one of {n} examples")
    if y.dtype.kind not in CLASS_KINDS:
        raise ValueError(
            f"labels: got dtype {y.dtype}, expected classes (integers or strings; cut "
            "numbers into bins first, numpy.digitize say)"
        )
    return y
