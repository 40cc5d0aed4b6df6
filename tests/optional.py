"""Packages that a user may do without, and CI may not."""

import os
from importlib import util

import pytest


def need(package):
    """Skip the test where a package is absent; fail in CI, which installs them all."""
    if util.find_spec(package) is not None:
        return
    reason = f"{package} is not installed: pip install 'latentroute[test]'"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
