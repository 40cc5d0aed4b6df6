"""The documentation hangs together; `python3 dev.py docs` builds and executes it."""

import ast
import re
from pathlib import Path

import pytest

from latentroute.inference import METHODS

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(
    path.relative_to(DOCS)
    for path in DOCS.rglob("*.md")
    if not {"_build", "jupyter_execute"} & set(path.relative_to(DOCS).parts)
)
TOCTREE = re.compile(r"^```\{toctree\}\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
CELL = re.compile(r"^```\{code-cell\}.*?\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)


def listed(page: Path) -> list[Path]:
    """The pages in the toctrees of a page."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        page.parent / f"{line.strip()}.md"
        for tree in TOCTREE.finditer(text)
        for line in tree["body"].splitlines()
        if line.strip() and not line.startswith(":")
    ]


def cells(page: Path) -> list[str]:
    """The code cells of a page, without their options."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return [
        re.sub(r"\A(:[\w-]+:.*\n)+", "", cell["code"]) for cell in CELL.finditer(text)
    ]


def test_every_page_is_in_one_toctree():
    found = [child for page in PAGES for child in listed(page)]
    assert sorted([Path("index.md"), *found]) == PAGES


def test_every_method_has_its_page():
    pages = {page.stem for page in PAGES if page.parent == Path("methods")}
    assert pages - {"index", "league", "comparison"} == set(METHODS)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_code_cells_compile(page):
    for code in cells(page):
        assert ast.parse(code).body, code


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_page_with_code_says_its_kernel_and_asserts(page):
    code = cells(page)
    if not code:
        return
    head = (DOCS / page).read_text(encoding="utf-8").split("---")[1]
    assert "file_format: mystnb" in head and "name: python3" in head
    shell = any("shell(" in cell for cell in code)  # it raises on a wrong exit code
    table = page == Path("methods/index.md")  # which prints what METHODS says
    assert shell or table or any("assert " in cell for cell in code)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_between_pages_lead_somewhere(page):
    text = (DOCS / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([\w./-]+\.md)", text):
        assert (DOCS / page.parent / target).resolve().is_file(), target
