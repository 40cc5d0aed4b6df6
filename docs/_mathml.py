"""Formulas as MathML, which browsers draw without a script, a font or a network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

LOGGER = logging.getLogger(__name__)

# LaTeX that docutils does not read, by LaTeX that it does.
REWRITTEN = (
    (re.compile(r"\\[bB]ig(?![a-zA-Z])"), r"\\bigl"),
    (re.compile(r"\\[dt]?frac\s*(\w)\s*(\w)"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\(?:text|display)style(?![a-zA-Z])"), ""),
    (re.compile(r"\\dots(?![a-zA-Z])"), r"\\ldots"),
)
# A thin space between a function and its argument: log p, not logp.
FUNCTION = re.compile(r"<mo>&ApplyFunction;</mo>(?=\s*<m[ius])")


def mathml(formula: str, *, as_block: bool) -> str:
    """A formula's MathML.

    Raises:
        MathError: If it holds what is not understood.
    """
    for pattern, replacement in REWRITTEN:
        formula = pattern.sub(replacement, formula)
    found: str = tex2mathml(formula, as_block=as_block)
    return FUNCTION.sub(r'\g<0><mspace width="0.17em"></mspace>', found)


def write(writer: Any, node: nodes.Element, *, as_block: bool) -> None:
    """Write a formula into the page; as it was typed where it is not understood."""
    try:
        writer.body.append(mathml(node.astext(), as_block=as_block))
    except MathError as error:
        LOGGER.warning("formula %r: %s", node.astext(), error, location=node)
        writer.body.append(f"<code>{writer.encode(node.astext())}</code>")
    raise nodes.SkipNode


def inline(writer: Any, node: nodes.Element) -> None:
    """Write a formula in a line of text."""
    write(writer, node, as_block=False)


def block(writer: Any, node: nodes.Element) -> None:
    """Write a formula on a line of its own."""
    write(writer, node, as_block=True)


def setup(app: Any) -> dict[str, bool]:
    """Make it the renderer of formulas."""
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
