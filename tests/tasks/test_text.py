"""Windows of words: against slices in plain Python, and offline."""

import copy
import random

import numpy as np
import pytest
import torch

from latentroute.tasks import Text
from latentroute.tasks.text import UNKNOWN, split_words, windows


@pytest.fixture(scope="module")
def plays():
    return Text().load()


@pytest.fixture
def story(tmp_path):
    """A file of 2,000 words, each its own number spelt in letters."""
    path = tmp_path / "story.txt"
    spelt = [
        "".join(chr(97 + int(digit)) for digit in str(number)) for number in range(2000)
    ]
    path.write_text(" ".join(spelt), encoding="utf-8")
    return path, spelt


def written(task, split):
    """The windows of a split in words."""
    return [
        [task.words[i] for i in (*x, y[-1])]
        for x, y in zip(split.x.tolist(), split.y.tolist(), strict=True)
    ]


def test_words_and_marks():
    assert split_words("Who's there? Nay,\nto-night; 'tis 3 O'Clock - STAND!") == [
        *("who's", "there", "?", "nay", ",", "to-night", ";"),
        *("tis", "o'clock", "stand", "!"),
    ]
    assert split_words("Who\u2019s") == ["who's"]


@pytest.mark.parametrize("n", [0, 1, 4, 5, 6, 8, 9, 13])
def test_windows_are_slices_that_share_one_word(n):
    words = list(range(n))
    expected = [words[i : i + 5] for i in range(0, n, 4) if i + 5 <= n]
    assert windows(torch.tensor(words), 4).tolist() == expected


def test_y_is_the_word_after_x(story):
    path, spelt = story
    task = Text(str(path), window=5, n_words=3000, n_train=30).load()
    assert task.window == 5
    assert len(task.train.x) == 30
    assert set(task.words) - {UNKNOWN} <= set(spelt)
    for words in written(task, task.train):
        place = spelt.index(words[0])
        assert words == spelt[place : place + 6]


def test_no_document_is_in_two_splits_and_words_are_trains(story):
    path, spelt = story
    task = Text(str(path), window=2, n_words=3000, n_train=10**6).load()
    # Every word of the file occurs once, so those of valid and test are unknown.
    assert (task.train.x > 0).all()
    for held_out in (task.valid, task.test):
        assert (held_out.x == 0).all()
        assert 120 <= held_out.x.numel() <= 400  # a fifth at most of 2,000
    assert len(task.words) - 1 < 0.75 * len(spelt)


def test_the_most_frequent_words_are_kept(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("the cat the dog the cat . " * 300, encoding="utf-8")
    task = Text(str(path), window=3, n_words=3).load()
    assert task.words == (UNKNOWN, "the", "cat")
    assert set(task.test.y.unique().tolist()) == {0, 1, 2}
    assert any("of the test words are <unk>" in note for note in task.notes)


def test_plays_without_names_and_directions(plays):
    assert repr(plays) == (
        "TextTask('shakespeare': 2000 words; windows of 16: "
        "train 4000, valid 500, test 1000)"
    )
    assert plays.train.x.dtype == plays.train.y.dtype == torch.int64
    assert plays.train.x.shape == plays.train.y.shape == (4000, 16)
    assert torch.equal(plays.train.x[:, 1:], plays.train.y[:, :-1])
    assert {"the", "thou", "my", ","} <= set(plays.words)
    assert not {"exit", "exeunt"} & set(plays.words)  # hardly ever spoken
    unknown = (plays.test.y == 0).double().mean()
    assert 0.05 < unknown < 0.2
    assert "38 documents" in plays.notes[0]


def test_splits_share_no_window(plays):
    rows = [
        set(map(tuple, s.x.tolist())) for s in (plays.train, plays.valid, plays.test)
    ]
    assert len(set.union(*rows)) == 5500


def test_python_topics_need_no_package():
    task = Text("python", window=8, n_words=300, n_train=100).load()
    assert "python" in task.words or "the" in task.words
    assert task.train.x.max() < len(task.words) == 300


def test_a_seed_fixes_every_bit_and_moves_no_generator():
    def state():
        legacy = str(np.random.get_state())  # noqa: NPY002
        return legacy, torch.get_rng_state().tolist(), random.getstate()

    before = state()
    first, second, other = (Text("python", seed=seed).load() for seed in (1, 1, 2))
    assert torch.equal(first.train.x, second.train.x)
    assert first.words == second.words
    assert first.test.x.shape != other.test.x.shape or not torch.equal(
        first.test.x, other.test.x
    )
    assert state() == before
    assert torch.equal(copy.deepcopy(first).test.y, first.test.y)


@pytest.mark.parametrize(
    "option", ["window", "n_words", "n_train", "n_valid", "n_test"]
)
@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3"])
def test_bad_sizes(option, value):
    with pytest.raises(ValueError, match=rf"^{option} must be a whole number"):
        Text("python", **{option: value})


@pytest.mark.parametrize("source", ["shakespear", 3, "/no/such/file.txt"])
def test_bad_sources(source):
    with pytest.raises(ValueError, match=r"^source must be one of .*got "):
        Text(source)


def test_a_text_that_is_too_short(tmp_path):
    path = tmp_path / "short.txt"
    path.write_text("too short a text", encoding="utf-8")
    with pytest.raises(ValueError, match="leaves no window of 16 words for"):
        Text(str(path)).load()


def test_plays_without_their_package(monkeypatch):
    monkeypatch.setattr("latentroute.tasks.text.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'latentroute\[data\]'"):
        Text().load()
