"""Sphinx configuration: MyST notebooks, executed at every build; no network."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # the extensions beside this file

project = "latentroute"
author = "the latentroute authors"
copyright = author
release = version = installed_version("latentroute")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "_docstrings",
    "_mathml",
]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = f"latentroute {release}"
html_math_renderer = "mathml"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["pages.css"]
pygments_style = "friendly"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_render_markdown_format = "myst"  # tables, too
nb_ipywidgets_js: dict[str, Any] = {}  # nothing to load from elsewhere

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
default_role = "code"  # `x` in a docstring is code

# Notebooks run with this interpreter's command line tools, on one thread each: several
# builds on a small machine would slow one another down many times over.
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["COLUMNS"] = "100"
# Pyro asks tqdm for a notebook's progress bar, which needs a package not here.
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
