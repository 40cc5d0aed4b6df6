"""The report: self-contained, escaped, readable without a picture, and true."""

import base64
import hashlib
import json
from html.parser import HTMLParser

import numpy as np
import pytest

from latentroute.analysis import summary
from latentroute.analysis.plots import FIGURES, suited
from latentroute.analysis.report import (
    COLUMNS,
    Picture,
    cell,
    render,
    shown_columns,
    write,
)

PNG = b"\x89PNG\r\n\x1a\n"
HOSTILE = "<script>alert('x')</script> & \"quotes\""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags with their attributes, cells, and text; checks that tags are closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.cells, self.text = [], [], [], ""
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if self.open and self.open[-1] in ("td", "th", "button"):
            self.cells[-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def page(tmp_path):
    def rendered(tree, figures=(), **options):
        path = render(tree, figures, tmp_path / "report.html", **options)
        return Page(path.read_text(encoding="utf-8"))

    return rendered


@pytest.fixture(scope="module")
def written(comparison_tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new" / "folder"
    return write(comparison_tree(), folder)


def test_write_gives_table_figures_and_page(written):
    names = [path.name for path in written]
    figures = [name for name in FIGURES if name != "confusion"]  # no truth is known
    assert names == ["summary.csv", *(f"{name}.png" for name in figures), "report.html"]
    assert all(path.read_bytes()[:8] == PNG for path in written[1:-1])


def test_the_page_needs_nothing_else(comparison_tree, written):
    text = written[-1].read_text(encoding="utf-8")
    text = text.replace("http://www.w3.org/2000/svg", "")  # a name, not an address
    assert "http:" not in text
    assert "https:" not in text
    page = Page(text)
    assert not page.all("link")
    assert all("src" not in script for script in page.all("script"))
    images = page.all("img")
    figures = suited(comparison_tree())
    assert len(images) == len(figures)
    for image, name in zip(images, figures, strict=True):
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert (
            base64.b64decode(data) == written[-1].with_name(f"{name}.png").read_bytes()
        )
        assert len(image["alt"]) > 40


def test_ids_are_unique_and_what_refers_to_them_exists(comparison_tree, page):
    found = page(comparison_tree())
    ids = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    refer = ("aria-labelledby", "aria-describedby")
    used = {a[name] for _, a in found.tags for name in refer if name in a}
    used |= {a["href"].removeprefix("#") for a in found.all("a")}
    assert len(ids) == len(set(ids))
    assert used <= set(ids)


def test_only_this_page_s_own_style_and_script_may_run(written):
    text = written[-1].read_text(encoding="utf-8")
    (policy,) = [a["content"] for a in Page(text).all("meta") if "http-equiv" in a]
    allowed = dict(part.split(" ", 1) for part in policy.split("; "))
    assert allowed["default-src"] == allowed["base-uri"] == "'none'"
    assert allowed["img-src"] == "data:"
    for tag in ("style", "script"):
        code = text.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert allowed[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_page_is_small(written):
    assert written[-1].stat().st_size < 5_000_000


def test_the_table_is_the_summary(comparison_tree, page):
    tree = comparison_tree()
    table = summary(tree)
    columns = shown_columns(table)
    found = page(tree)
    width = len(columns) + 1
    assert found.cells[:width] == ["method", *(c.label for c in columns)]
    exact = dict(zip((c.name for c in columns), found.cells[width + 1 :], strict=False))
    row = table.loc["exact"]
    assert exact["log_lik"] == (
        f"{row.log_lik:.3f} ± {row.log_lik_se:.3f}".replace("-", "\N{MINUS SIGN}")
    )
    values = [a["data-value"] for t, a in found.tags if t == "td"]
    assert float(values[columns.index(COLUMNS[2])]) == row.log_lik


def test_a_heading_is_a_button_so_that_keys_sort_too(comparison_tree, page):
    found = page(comparison_tree())
    headings = [i for i, (tag, a) in enumerate(found.tags) if a.get("scope") == "col"]
    assert headings
    assert all(found.tags[i + 1][0] == "button" for i in headings)


def test_every_column_shown_is_explained(comparison_tree, page):
    tree = comparison_tree(failed=[("exact", 1)])
    text = page(tree).text
    for column in shown_columns(summary(tree)):
        assert column.note in text


def test_every_column_of_the_summary_has_a_place(comparison_tree):
    for tree in (comparison_tree(), comparison_tree(classes=None)):
        named = {name.removesuffix("_se") for name in summary(tree).columns}
        assert named <= {column.name for column in COLUMNS}


def test_text_from_outside_is_escaped(comparison_tree, page):
    tree = comparison_tree(methods=["exact"])
    tree.attrs.update(
        task=HOSTILE,
        description=HOSTILE,
        command=HOSTILE,
        notes=json.dumps([HOSTILE]),
        settings=json.dumps({"lr": HOSTILE}),
        versions=json.dumps({"latentroute": HOSTILE}),
    )
    picture = Picture("x", HOSTILE, HOSTILE, HOSTILE, PNG)
    found = page(tree, [picture], missing={"y": HOSTILE})
    assert len(found.all("script")) == 2  # the data, the code
    assert found.all("img")[0]["alt"] == HOSTILE
    assert found.text.count(HOSTILE) >= 8


def test_labels_and_feature_names_cannot_become_markup(run_tree, page):
    names = {"class_names": ["a", "b", "c", HOSTILE], "feature_names": [HOSTILE] * 5}
    found = page(run_tree(attrs=names))
    assert len(found.all("script")) == 2


def test_failures_are_listed_with_their_reason(comparison_tree, page):
    text = page(comparison_tree(failed=[("score-function", 2)])).text
    assert "1 of 6 trainings failed" in text
    assert "score-function, seed 2: ValueError: loss is NaN at step 3" in text


def test_no_failure_is_said_too(comparison_tree, page):
    assert "None: all 6 trainings finished." in page(comparison_tree()).text


def test_all_failed_still_makes_a_page(comparison_tree, tmp_path):
    tree = comparison_tree(
        methods=["exact", "hard-em"],
        seeds=[0],
        failed=[("exact", 0), ("hard-em", 0)],
    )
    *_, path = write(tree, tmp_path)
    text = Page(path.read_text(encoding="utf-8")).text
    assert "No training finished." in text
    assert "2 of 2 trainings failed" in text
    assert "every run failed" in text  # why there are no figures


def test_the_best_method_and_the_prior_are_said(comparison_tree, page):
    text = page(comparison_tree()).text
    assert "Highest test log-likelihood: exact" in text
    assert "a prediction that ignores x gets \N{MINUS SIGN}1.400." in text


def test_settings_versions_and_unknown_attributes_are_shown(comparison_tree, page):
    tree = comparison_tree()
    tree.attrs.update(
        settings=json.dumps({"steps": 7, "lr": 0.01}), odd="{no json", surprise=3
    )
    text = page(tree).text
    for part in ("steps: 7", "lr: 0.01", "{no json", "surprise"):
        assert part in text


def test_one_run_has_a_page(run_tree, page):
    text = page(run_tree()).text
    assert "1 inference method on toy" in text
    assert "the training finished" in text


def test_every_figure_is_drawn_and_explained(written):
    page = Page(written[-1].read_text(encoding="utf-8"))
    assert "is not here" not in page.text.replace("“Which predicts better” is not", "")
    labels = [a["aria-label"] for a in page.all("button") if "aria-haspopup" in a]
    assert len(labels) == len(page.all("img")) == len(page.all("figcaption"))
    assert all(len(label) > len("Enlarge: ") for label in labels)


def test_why_a_figure_is_missing_is_told(comparison_tree, page):
    missing = {"flows": "no run finished"}
    found = page(comparison_tree(), missing=missing)
    assert "flows is not here: no run finished" in found.text


def test_a_tree_that_is_none_of_ours_is_refused(comparison_tree, tmp_path):
    with pytest.raises(ValueError, match="expected one run"):
        write(comparison_tree().children["exact"]["seed_0"]["routing"], tmp_path)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (-0.12345, 0.01, "\N{MINUS SIGN}0.123 ± 0.010"),
        (2.0, np.nan, "2.000"),
        (np.nan, np.nan, "\N{EN DASH}"),
        (-np.inf, np.nan, "\N{MINUS SIGN}inf"),
    ],
)
def test_a_cell_is_value_and_error(value, error, text):
    column = next(c for c in COLUMNS if c.name == "log_lik")
    assert cell({"log_lik": value, "log_lik_se": error}, column) == text
