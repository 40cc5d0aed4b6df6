"""Labels against modules: scikit-learn, closed forms and a world that can be listed."""

import numpy as np
import pytest
import torch
from scipy.stats import entropy as kl
from sklearn.metrics import confusion_matrix, mutual_info_score

from latentroute.analysis import information, label_table, surprise
from latentroute.analysis.labels import LabelSums, SurpriseSums, table_information


def test_hard_routes_make_a_confusion_matrix():
    rng = np.random.default_rng(0)
    y, a = rng.integers(0, 4, 300), rng.integers(0, 3, 300)
    a[y == 2] = 1
    table = label_table(np.eye(3)[a], y)
    assert table.n == 300
    counts = confusion_matrix(y, a)[:, :3]
    np.testing.assert_allclose(table.joint[0] * 300, counts)
    assert table.mi[0] == pytest.approx(mutual_info_score(y, a), rel=1e-12)
    np.testing.assert_allclose(
        table.given_label()[0], counts / counts.sum(1, keepdims=True)
    )


def test_soft_routes_by_hand():
    p = np.array([[0.5, 0.5], [0.9, 0.1], [0.2, 0.8]])
    table = label_table(p, np.array(["b", "a", "b"]))
    assert table.labels.tolist() == ["a", "b"]
    joint = np.array([[0.9, 0.1], [0.7, 1.3]]) / 3
    np.testing.assert_allclose(table.joint[0], joint)
    outer = joint.sum(1, keepdims=True) * joint.sum(0)
    assert table.mi[0] == pytest.approx((joint * np.log(joint / outer)).sum())


def test_labels_that_say_nothing_and_all():
    same = np.tile([0.3, 0.7], (10, 1))
    assert label_table(same, np.arange(10) % 2).mi[0] == pytest.approx(0, abs=1e-15)
    own = np.eye(5)[np.arange(20) % 5]
    assert label_table(own, np.arange(20) % 5).mi[0] == pytest.approx(np.log(5))
    assert label_table(own, np.zeros(20, int)).mi[0] == 0
    assert label_table(np.ones((1, 1)), [True]).mi[0] == 0


def test_information_is_biased_high_by_what_is_said():
    """Independent hard routes and labels: on average (C - 1)(M - 1) / (2 N)."""
    rng = np.random.default_rng(0)
    p, y = np.eye(4)[rng.integers(0, 4, (200, 400))], rng.integers(0, 3, 200)
    mi = label_table(p, y).mi  # 400 layers
    assert mi.mean() == pytest.approx(2 * 3 / 400, abs=4 * mi.std() / 20)


def test_batches_add_up_and_labels_may_come_late():
    rng = np.random.default_rng(0)
    p, y = rng.dirichlet(np.ones(3), (60, 2)), np.sort(rng.integers(0, 5, 60))
    sums = LabelSums()
    for rows, labels in zip(np.split(p, 6), np.split(y, 6), strict=True):
        sums.add(torch.tensor(rows), torch.tensor(labels))
    table, whole = sums.table(), label_table(p, y)
    assert (table.labels == whole.labels).all()
    np.testing.assert_allclose(table.joint, whole.joint, rtol=1e-12)


def test_table_information_of_independent_rows_and_columns():
    joint = np.outer([0.2, 0.8], [0.1, 0.6, 0.3])
    assert table_information(joint) == pytest.approx(0, abs=1e-15)


def test_surprise_is_the_mean_divergence():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.ones(4), (2, 50, 3))
    each = kl(p, q, axis=-1)
    found = surprise(p, q)
    np.testing.assert_allclose(found.mi, each.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.error, each.std(0, ddof=1) / np.sqrt(50))
    sums = SurpriseSums()
    for i in range(0, 50, 7):
        sums.add(p[i : i + 7], q[i : i + 7])
    np.testing.assert_allclose(sums.surprise().mi, found.mi, rtol=1e-12)
    np.testing.assert_allclose(sums.surprise().error, found.error, rtol=1e-10)


def test_surprise_at_its_limits():
    uniform = np.full((3, 4), 0.25)
    assert surprise(uniform, uniform).mi[0] == 0
    assert surprise(np.eye(4)[:3], uniform).mi[0] == pytest.approx(np.log(4))
    assert surprise(uniform, np.eye(4)[:3]).mi[0] == np.inf
    assert surprise(np.eye(4)[:3], np.eye(4)[:3]).mi[0] == 0
    assert np.isnan(surprise(uniform[:1], uniform[:1]).error[0])


def test_chain_rule_in_a_world_that_can_be_listed():
    """I(A;X,Y) = I(A;X) + I(A;Y|X), with p(x) p(y|x) spelt out by repeated rows."""
    rng = np.random.default_rng(0)
    p_a = rng.dirichlet(np.ones(3), 4)  # (x, a)
    ones = rng.integers(0, 3, (4, 3)) + np.array(
        [0, 4, 8]
    )  # module 2 mostly says y = 1
    p_y = np.stack([10 - ones, ones], -1) / 10  # (x, a, y), of tenths
    p_a = np.round(p_a, 1)
    p_a[:, -1] = 1 - p_a[:, :-1].sum(-1)
    joint = p_a[..., None] * p_y / 4  # (x, a, y), of 400ths
    router, posterior, labels = [], [], []
    for x in range(4):
        for y in range(2):
            n = round(joint[x, :, y].sum() * 400)
            post = joint[x, :, y] / joint[x, :, y].sum()
            router += [p_a[x]] * n
            posterior += [post] * n
            labels += [y] * n
    router, posterior = np.array(router), np.array(posterior)
    assert len(router) == 400
    h_a = (-joint.sum((0, 2)) * np.log(joint.sum((0, 2)))).sum()
    by_hand = {
        "x": information(router)["mi_lower"],
        "xy": information(posterior)["mi_lower"],
        "y|x": surprise(posterior, router).mi[0],
        "y": label_table(posterior, labels).mi[0],
    }
    assert by_hand["xy"] == pytest.approx(by_hand["x"] + by_hand["y|x"], rel=1e-12)
    ay = joint.sum(0)
    outer = ay.sum(1, keepdims=True) * ay.sum(0)
    assert by_hand["y"] == pytest.approx((ay * np.log(ay / outer)).sum(), rel=1e-12)
    assert information(router)["h_b"] == pytest.approx(h_a, rel=1e-12)
    # negative control: the router has not seen y, and knows less of it
    assert label_table(router, labels).mi[0] < by_hand["y"] - 0.05


@pytest.mark.parametrize(
    ("probs", "labels", "message"),
    [
        (np.eye(2), [0, 1, 1], r"labels: got shape \(3,\), expected one of 2"),
        (np.eye(2), [0.5, 1.0], "labels: got dtype float64, expected classes"),
        (np.eye(2) * 2, [0, 1], "a row that sums to 2"),
    ],
)
def test_refusals_of_labels(probs, labels, message):
    with pytest.raises(ValueError, match=message):
        label_table(probs, labels)


def test_refusal_of_other_shapes():
    with pytest.raises(ValueError, match=r"got shapes \(2, 2\) and \(3, 3\)"):
        surprise(np.eye(2), np.eye(3))
