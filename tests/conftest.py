"""The suite's rate of false alarms, and shapes of annotations checked at run time."""

from tests.statistics import LEDGER, SUITE_RATE


def pytest_terminal_summary(terminalreporter):
    if LEDGER.entries:
        terminalreporter.write_line(
            f"{len(LEDGER.entries)} statistical comparisons; false alarms at most "
            f"{LEDGER.total:.1e} for the suite (allowed: {SUITE_RATE:.0e})"
        )


def pytest_sessionfinish(session):
    if LEDGER.total > SUITE_RATE:
        session.exitstatus = 1
