"""Sphinx configuration: MyST notebooks, executed at every build; no network."""

from __future__ import annotations

import os
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

project = "latentroute"
author = "the latentroute authors"
copyright = author
release = version = installed_version("latentroute")

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "jupyter_execute"]
html_theme = "furo"
html_title = f"latentroute {release}"
html_math_renderer = "mathml"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tables.css"]
pygments_style = "friendly"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_ipywidgets_js: dict[str, Any] = {}  # nothing to load from elsewhere
nb_mime_priority_overrides = [("html", "text/html", 0)]

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


FUNCTION = re.compile(r"<mo>&ApplyFunction;</mo>(?=\s*<m[ius])")  # log p, not logp
STARS = re.compile(r"(?<=\()\*(?=\w)|(?<=, )\*(?=\w+\))|\|(?=A\|)")


def mathml(writer: Any, node: nodes.Element, *, as_block: bool) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    formula = tex2mathml(node.astext(), as_block=as_block)
    writer.body.append(FUNCTION.sub(r'\g<0><mspace width="0.17em"></mspace>', formula))
    raise nodes.SkipNode


def skip_member(
    app: Any, what: str, name: str, member: Any, skip: bool, options: Any
) -> bool | None:
    """Leave out what a NamedTuple says of its fields: their numbers."""
    doc = getattr(member, "__doc__", None) or ""
    return True if doc.startswith("Alias for field number") else None


def escape(
    app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    """Keep shapes such as (*batch, M) and |A| from being read as markup."""
    lines[:] = [STARS.sub(r"\\\g<0>", line) for line in lines]


def setup(app: Any) -> dict[str, bool]:
    """Register the renderer of formulas."""

    def inline(writer: Any, node: nodes.Element) -> None:
        mathml(writer, node, as_block=False)

    def block(writer: Any, node: nodes.Element) -> None:
        mathml(writer, node, as_block=True)

    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("autodoc-skip-member", skip_member)
    app.connect("autodoc-process-docstring", escape)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
