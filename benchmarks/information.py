"""Time and memory of `stream_information` on routing of any size.

    python -m latentroute.benchmarks.information --examples 1000000 --modules 16

Batches are drawn anew in each reading, so that what is measured is not the data.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator

import numpy as np

from latentroute.analysis import information_table, stream_information

BATCH = 4096
MIB = 2**20


def batches(examples: int, layers: int, modules: int) -> Iterator[np.ndarray]:
    """Softmax rows in float32, the same in every reading."""
    for start in range(0, examples, BATCH):
        generator = np.random.default_rng(start)
        size = (min(BATCH, examples - start), layers, modules)
        logits = 3 * generator.standard_normal(size, dtype=np.float32)
        p = np.exp(logits - logits.max(-1, keepdims=True))
        yield p / p.sum(-1, keepdims=True)


def peak() -> float:
    """Largest memory of this process so far in MiB."""
    import resource  # not on Windows

    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kib / (MIB if platform.system() == "Darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--modules", type=int, default=16)
    parser.add_argument("--replicates", type=int, default=200)
    options = parser.parse_args()
    size = (options.examples, options.layers, options.modules)
    before, start = peak(), time.perf_counter()
    for _ in range(2):
        for _ in batches(*size):
            pass
    drawing, start = time.perf_counter() - start, time.perf_counter()
    found = stream_information(lambda: batches(*size), replicates=options.replicates)
    seconds = time.perf_counter() - start
    print(information_table(found).T.to_string(float_format="{:.5f}".format))
    print(
        f"{size[0]} examples x {size[1]} layers x {size[2]} modules, "
        f"{options.replicates} replicates: {seconds:.1f} s, of which {drawing:.1f} s "
        f"drew the data twice; peak memory {peak():.0f} MiB ({before:.0f} MiB before "
        f"it began; the data in float32 are {4 * np.prod(size) / MIB:.0f} MiB)"
    )


if __name__ == "__main__":
    main()
