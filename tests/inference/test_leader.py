"""The best start: taken by its held-out mean, confirmed by a paired difference."""

import pytest
import torch

from latentroute.inference.leader import Leader

FREE = torch.tensor([0.0, 1.0, 2.0, 3.0])
BETTER = FREE + torch.tensor([1.0, 1.1, 0.9, 1.0])  # by 1 +- .04


def weights(value):
    return {"w": torch.full((2,), float(value))}


def leader(agreement=1.0, guided=BETTER, free=FREE):
    found = Leader()
    found.enter(0, free, weights(0), None)
    found.enter(1, guided, weights(1), agreement)
    return found


def test_the_best_mean_leads_and_its_weights_are_copied():
    found, given = Leader(), weights(5)
    assert found.offer(3, FREE, given)
    given["w"].zero_()
    assert found.start == 3 and found.score == 1.5
    assert torch.equal(found.weights["w"], torch.full((2,), 5.0))
    assert not found.offer(4, FREE, weights(6))  # no better
    assert found.start == 3
    assert found.offer(5, FREE + 1, weights(7)) and found.start == 5


def test_weights_are_taken_though_their_score_is_none():
    found = Leader()
    assert found.offer(0, torch.full((4,), -torch.inf), weights(1))
    assert torch.equal(found.weights["w"], torch.ones(2))


@pytest.mark.parametrize("first", [0, 1])
def test_a_score_that_is_no_number_never_leads(first):
    scores = [FREE, torch.tensor([torch.nan, 9.0, 9.0, 9.0]), FREE - 1]
    found = Leader()
    for start, values in enumerate(scores[first:], first):
        found.offer(start, values, weights(start))
    assert found.start == (2 if first else 0)


@pytest.mark.parametrize(
    ("change", "confirmed"),
    [
        ({}, True),
        ({"agreement": 0.98}, False),  # y prefers other routes
        ({"guided": FREE + torch.tensor([9.0, -2.0, 9.0, -1.0])}, False),  # by chance
        ({"guided": FREE - 1}, False),  # a free start leads
        ({"free": FREE[:1], "guided": BETTER[:1]}, False),  # no error to be told
    ],
)
def test_what_confirms_a_guess(change, confirmed):
    assert leader(**change).confirmed is confirmed


def test_without_a_free_start_nothing_is_confirmed():
    found = Leader()
    found.enter(1, BETTER, weights(1), 1.0)
    assert not found.confirmed


def test_the_best_free_start_is_what_a_guess_must_beat():
    found = leader()
    near = BETTER - torch.tensor([0.2, -0.1, 0.2, -0.1])  # by .05 +- .09
    found.enter(3, near, weights(3), None)
    assert found.start == 1 and not found.confirmed
    found.enter(6, FREE, weights(6), None)  # a worse one changes nothing
    assert not found.confirmed


def test_a_checkpoint_has_all_of_it():
    found, other = leader(), Leader()
    other.load(found.state())
    assert other.confirmed and other.start == 1 and other.score == found.score
    assert torch.equal(other.weights["w"], found.weights["w"])
