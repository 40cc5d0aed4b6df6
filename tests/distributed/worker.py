"""What each of two processes does under torchrun, on real digits.

``python -m torch.distributed.run --standalone --nproc-per-node 2 -m
tests.distributed.worker FOLDER`` writes what every check found to ``rank_0.json`` and
``rank_1.json`` there; ``test_two_processes.py`` says what it must be. All checks share
one start; Fabric comes last.
"""

import itertools
import json
import time
import traceback
import warnings

from latentroute.inference import data_parallel
from tests.distributed import (  # noqa: F401
    same_numbers,
    stopping,
    traps,
    whole_runs,
)
from tests.distributed.shared import CHECKS, FOLDER, RANK


def main():
    found = {}
    for i, (name, function) in enumerate(CHECKS.items()):
        # Should a check fail in one process alone, the next ones meet all the same.
        data_parallel._OPENED = itertools.count(1000 * i)
        begun = time.perf_counter()
        try:
            found[name] = function()
        except Exception:
            found[name] = {"traceback": traceback.format_exc()}
        found[name]["took"] = time.perf_counter() - begun
    (FOLDER / f"rank_{RANK}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
