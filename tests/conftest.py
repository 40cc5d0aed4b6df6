"""The suite's rate of false alarms; shapes of annotations checked where asked for."""

import os

from jaxtyping import install_import_hook

from tests.statistics import LEDGER, SUITE_RATE

# Before the package is imported: its annotations are then checked at every call, which
# takes thrice the time. `contracts/test_annotations.py` runs a part of the suite so.
if os.environ.get("LATENTROUTE_CHECK_SHAPES"):
    install_import_hook(
        ["latentroute.models", "latentroute.guides", "latentroute.inference"],
        "beartype.beartype",
    )


def pytest_configure(config):
    # Of the hints in Pyro's own code, which beartype comes across.
    config.addinivalue_line(
        "filterwarnings",
        "ignore::beartype.roar.BeartypeDecorHintPep585DeprecationWarning",
    )


def pytest_terminal_summary(terminalreporter):
    if LEDGER.entries:
        terminalreporter.write_line(
            f"{len(LEDGER.entries)} statistical comparisons; false alarms at most "
            f"{LEDGER.total:.1e} for the suite (allowed: {SUITE_RATE:.0e})"
        )


def pytest_sessionfinish(session):
    if LEDGER.total > SUITE_RATE:
        session.exitstatus = 1
