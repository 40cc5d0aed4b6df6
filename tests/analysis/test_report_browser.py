"""The report in a real browser: sizes of window, keys, clicks, nothing to complain of.

Skipped where there is no Chromium.
"""

import json
from io import BytesIO

import numpy as np
import pytest

from latentroute.analysis import summary
from latentroute.analysis.plots import learning_curves
from latentroute.analysis.report import Picture, render
from tests.analysis.browser import Browser, found
from tests.analysis.report_cases import CASES, shared

pytestmark = pytest.mark.skipif(found() is None, reason="no Chromium on the PATH")

SIZES = [(390, 844), (1024, 768), (1920, 1080)]


@pytest.fixture(scope="module")
def browser():
    one = Browser()
    yield one
    one.close()


@pytest.fixture(scope="module")
def images(comparison_tree):
    buffer = BytesIO()
    learning_curves(comparison_tree(["exact"], [0])).savefig(buffer, format="png")
    names = ("first", "second")
    return [
        Picture(n, f"The {n}", f"Alt {n}.", "Read.", buffer.getvalue()) for n in names
    ]


STICKS_OUT = """(() => {
  const right = document.getElementById('example').getBoundingClientRect().right;
  return [...document.querySelectorAll('#example *')]
    .filter(node => !node.closest('.scroll, th') && !node.closest('svg'))
    .filter(node => node.getBoundingClientRect().right > right)
    .map(node => node.outerHTML);
})()"""


@pytest.mark.parametrize("case", CASES)
def test_every_size_of_window(
    case, browser, images, run_tree, comparison_tree, tmp_path
):
    tree = CASES[case](run_tree, comparison_tree)
    path = render(tree, images, tmp_path / "report.html")
    for width, height in SIZES:
        browser.open(path, width, height)
        wide = "[document.documentElement.scrollWidth, innerWidth]"
        assert browser.run(wide) == [width, width]
        assert browser.complaints() == []
        sent = [url for url in browser.requests() if not url.startswith("data:")]
        assert sent == [path.resolve().as_uri()]
        assert browser.run("document.title") != "broken"
        if case != "all failed":
            assert browser.run("document.querySelector('#example h3').innerText")
            assert browser.run(STICKS_OUT) == []


def test_a_complaint_would_be_seen(browser, images, run_tree, tmp_path):
    path = render(run_tree(), images, tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    broken = {
        "an error": text.replace("<h1>", "<h1 style='color: red'>"),  # by the policy
        "a request": text.replace("<h1>", "<img src='missing.png'><h1>"),
        "a script": text.replace("<h1>", "<script>document.title = 1</script><h1>"),
    }
    for name, page in broken.items():
        path.write_text(page, encoding="utf-8")
        browser.open(path, *SIZES[1])
        assert browser.complaints(), name
        assert browser.run("document.title") != "1"


def column(browser, table, number):
    cells = f"#{table}-table tbody tr > :nth-child({number + 1})"
    return browser.run(
        f"[...document.querySelectorAll('{cells}')].map(cell => cell.dataset.value)"
    )


def test_headings_sort_by_value_from_the_keyboard(
    browser, images, comparison_tree, tmp_path
):
    methods = [f"m{i}" for i in range(1, 12)]
    tree = comparison_tree(methods, [0], failed=[("m5", 0)])
    path = render(tree, images, tmp_path / "report.html")
    browser.open(path, *SIZES[1])
    heading = "[...document.querySelectorAll('#summary-table thead button')]"
    names = browser.run(f"{heading}.map(button => button.innerText)")
    at = names.index("log p(y|x)")
    sort = f"{heading}[{at}].parentNode.getAttribute('aria-sort')"
    assert browser.run(sort) is None
    browser.run(f"{heading}[{at}].focus()")
    browser.press("Enter")
    assert browser.run(sort) == "descending"
    true = summary(tree)["log_lik"].sort_values(ascending=False, na_position="last")
    assert column(browser, "summary", 0) == list(true.index)
    values = [float(value) for value in column(browser, "summary", at)]
    np.testing.assert_array_equal(values, true)
    browser.press(" ")
    assert browser.run(sort) == "ascending"
    values = [float(value) for value in column(browser, "summary", at)]
    np.testing.assert_array_equal(values[:-1], true[-2::-1])
    assert np.isnan(values[-1])  # the unknown stays last
    browser.click("#summary-table thead button")
    assert column(browser, "summary", 0) == methods  # m2 before m10
    assert browser.run(sort) is None


def test_figures_open_and_grow_from_the_keyboard(browser, images, run_tree, tmp_path):
    browser.open(render(run_tree(), images, tmp_path / "report.html"), *SIZES[1])
    is_open = "document.querySelector('dialog').open"
    width = "document.querySelector('.stage img').clientWidth"
    name = "document.querySelector('dialog h3').innerText"
    wait = "new Promise(done => setTimeout(done, 200))"
    browser.run("document.querySelector('button.zoom').focus()")
    browser.press("Enter")
    browser.run(wait)
    assert browser.run(f"[{is_open}, {name}]") == [True, "The first"]
    fitted = browser.run(width)
    assert 0 < fitted <= SIZES[1][0]
    browser.press("+", "+")
    assert browser.run(width) == pytest.approx(fitted * 1.25**2, abs=2)
    browser.press("0")
    assert browser.run(width) == pytest.approx(fitted, abs=1)
    browser.press("n")
    browser.run(wait)
    assert browser.run(name) == "The second"
    browser.press("Escape")
    browser.run(wait)
    assert browser.run(is_open) is False
    label = "document.activeElement.getAttribute('aria-label')"
    assert browser.run(label) == "Enlarge: The second"
    browser.click("button.zoom")
    browser.run(wait)
    browser.click("dialog [data-do=close]")
    assert browser.run(is_open) is False
    assert browser.complaints() == []


CHOSEN = """(() => {
  const option = document.querySelector('[role=option][aria-selected=true]');
  const list = document.getElementById('example-list');
  const text = (query) => [...document.querySelectorAll(query)].map(n => n.innerText);
  return {
    number: Number(document.querySelector('#example h3').innerText.split(' ')[1]),
    active: list.getAttribute('aria-activedescendant') === option.id,
    selected: document.querySelectorAll('[aria-selected=true]').length,
    classes: text('.prediction th'),
    class_probs: text('.prediction .value'),
    router: text('.layer:first-child .router .value'),
    posterior: text('.layer:first-child .posterior .value'),
    focus: document.activeElement.id,
    shown: list.children.length,
    facts: text('.facts dd'),
  };
})()"""


def test_an_example_is_chosen_by_keys_and_by_clicks(
    browser, images, run_tree, tmp_path
):
    tree = shared(run_tree, known=True)
    browser.open(render(tree, images, tmp_path / "report.html"), *SIZES[1])
    run = tree["exact/seed_0"]
    browser.run("document.getElementById('example-list').focus()")
    browser.press("ArrowRight", "ArrowRight", "ArrowRight", "ArrowLeft", "Enter")
    state = browser.run(CHOSEN)
    assert (state["number"], state["focus"]) == (2, "example")
    assert state["active"]
    assert state["selected"] == 1
    for name in ("router", "posterior"):
        group = run["routing"][f"{name.replace('posterior', 'route')}_probs"]
        assert [as_shown(p) for p in group.values[2, 0]] == state[name]
    probs = run["predictive_probs"]["y"].values[2]
    assert state["class_probs"] == [as_shown(p) for p in sorted(probs, reverse=True)]
    names = json.loads(run.attrs["class_names"])
    order = [names[i] for i in np.argsort(-probs)]
    assert [label.removeprefix("true").strip() for label in state["classes"]] == order
    browser.press("Escape")
    assert browser.run(CHOSEN)["focus"] == "example-list"
    browser.press("ArrowDown")
    below = browser.run(CHOSEN)["number"]
    assert below > 3  # a row further
    browser.press("ArrowUp", "End")
    assert browser.run(CHOSEN)["number"] == 59
    browser.press("Home", "ArrowLeft")
    assert browser.run(CHOSEN)["number"] == 0
    browser.click("#example-7")
    assert browser.run(CHOSEN)["number"] == 7
    browser.click("#example .buttons button:last-child")
    assert browser.run(CHOSEN)["number"] == 8
    assert browser.complaints() == []


def as_shown(p):
    """A probability as the page writes it, from parts of 10,000."""
    parts = round(10_000 * float(p))
    if parts in (0, 10_000):
        return "1" if parts else "0"
    if parts < 50:
        return "<0.01"
    return ">0.99" if parts > 9950 else f"{parts / 10_000:.2f}"


def pick(browser, name, value):
    browser.run(
        f"(() => {{ const box = document.getElementById('by-{name}');"
        f"box.value = {json.dumps(value)};"
        "box.dispatchEvent(new Event('change')); })()"
    )
    return browser.run(CHOSEN)


def test_filters_and_orders(browser, images, run_tree, tmp_path):
    tree = shared(run_tree)
    browser.open(render(tree, images, tmp_path / "report.html"), *SIZES[1])
    run = tree["exact/seed_0"]
    y = run["observed_data"]["y"].values
    predicted = run["predictive_probs"]["y"].values.argmax(1)
    posterior = run["routing"]["route_probs"].values.astype(float)
    h = -(posterior * np.log(np.where(posterior > 0, posterior, 1))).sum(-1).mean(1)
    assert pick(browser, "order", "unsure")["shown"] == 60
    browser.run("document.getElementById('example-list').focus()")
    browser.press("Home")
    assert browser.run(CHOSEN)["number"] == h.argmax()
    pick(browser, "order", "sure")
    browser.press("Home")
    assert browser.run(CHOSEN)["number"] == h.argmin()
    assert pick(browser, "class", "2")["shown"] == (y == 2).sum()
    assert (
        pick(browser, "result", "wrong")["shown"] == ((y == 2) & (predicted != 2)).sum()
    )
    pick(browser, "result", "")
    pick(browser, "class", "")
    mode = posterior.argmax(-1)
    assert pick(browser, "module", "1:2")["shown"] == (mode[:, 1] == 2).sum()
    pick(browser, "module", "")
    before = browser.run(CHOSEN)
    other = pick(browser, "run", "1")
    assert other["number"] == before["number"]  # the same example, another run
    log_lik = tree["hard-em/seed_0/log_likelihood"]["y"].values[0, 0]
    shown = f"{log_lik[other['number']]:.3f} nats".replace("-", "\N{MINUS SIGN}")
    assert shown in other["facts"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_text_stands_out(colours, browser, images, run_tree, tmp_path):
    path = render(shared(run_tree, known=True), images, tmp_path / "report.html")
    browser.open(path, *SIZES[1], prefers_color_scheme=colours)
    assert browser.run("getComputedStyle(document.documentElement).scrollBehavior") == (
        "auto"
    )
    pairs = browser.run(
        "(() => { const style = getComputedStyle(document.documentElement);"
        "return ['text', 'quiet', 'accent', 'paper', 'tint']"
        ".map(name => style.getPropertyValue('--' + name).trim()); })()"
    )
    *signs, paper, tint = map(luminance, pairs)
    for sign in signs:
        for ground in (paper, tint):
            light, dark = max(sign, ground), min(sign, ground)
            assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2.2, 1.4.3


def luminance(colour):
    """WCAG's relative luminance of #rrggbb."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
