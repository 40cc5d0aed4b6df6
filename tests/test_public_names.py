"""The names at the top of the package: lazy, and the same objects as below."""

import importlib
import re
from pathlib import Path

import pytest

import latentroute

SOURCE = Path(latentroute.__file__).read_text(encoding="utf-8")
PACKAGES = {"analysis", "guides", "inference", "models", "tasks"}
NAMES = sorted(set(latentroute.__all__) - PACKAGES - {"__version__"})


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_that_of_its_subpackage(name):
    home = importlib.import_module(f"latentroute.{latentroute._HOME[name]}")
    assert getattr(latentroute, name) is getattr(home, name)


def test_subpackages_are_attributes():
    for package in PACKAGES:
        module = importlib.import_module(f"latentroute.{package}")
        assert getattr(latentroute, package) is module


def test_dir_lists_what_there_is():
    assert set(dir(latentroute)) == set(latentroute.__all__)
    assert set(NAMES) == set(latentroute._HOME)
    assert set(latentroute._NAMES) == PACKAGES


def test_type_checkers_see_the_same_names():
    block = SOURCE.partition("if TYPE_CHECKING:")[2].partition("__version__")[0]
    seen = set(re.findall(r"\w+", re.sub(r"from \S+ import|#.*", "", block)))
    assert seen == {*NAMES, *PACKAGES}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'rout'"):
        latentroute.rout  # noqa: B018
