// The explorer: which examples, which one, under which run.
const stored = document.getElementById("explorer-data");
if (stored) explore(JSON.parse(stored.textContent));

function explore({ examples, runs, colours }) {
  const byId = (id) => document.getElementById(id);
  const list = byId("example-list");
  const panel = byId("example");
  const filters = {
    run: byId("by-run"),
    order: byId("by-order"),
    class: byId("by-class"),
    result: byId("by-result"),
    module: byId("by-module"),
  };
  const title = make("h3", { "aria-live": "polite" });
  const body = make("div", { class: "body" });
  let shown = []; // positions in the run's set of examples, in the order of the list
  let chosen = 0; // one of these
  let isOpen = false; // the table of all runs

  const run = () => runs[Number(filters.run.value)];
  const set = () => examples[run().set];

  const fillFilters = () => {
    const now = [run(), set()];
    const classes = hasClasses(...now) ? [...new Set(set().y)].sort((a, b) => a - b) : [];
    refill(filters.class, [["", "any"], ...classes.map((klass) => [klass, className(set(), klass)])]);
    filters.class.parentNode.hidden = filters.result.parentNode.hidden = !classes.length;
    if (!classes.length) filters.result.value = "";
    const before = filters.module.value;
    filters.module.replaceChildren(make("option", { value: "" }, "any"));
    run().sites.forEach((site, at) => {
      const modules = Array.from({ length: run().choices[at] }, (_, module) =>
        make("option", { value: `${at}:${module}` }, `${site}: module ${module}`),
      );
      filters.module.append(make("optgroup", { label: site }, ...modules));
    });
    filters.module.value = before;
    if (filters.module.selectedIndex < 0) filters.module.value = "";
  };

  const wanted = (i) => {
    if (filters.class.value && set().y[i] !== Number(filters.class.value)) return false;
    if (filters.result.value && isRight(run(), set(), i) !== (filters.result.value === "right")) return false;
    if (!filters.module.value) return true;
    const [site, module] = filters.module.value.split(":").map(Number);
    return modalModules(run(), i)[site] === module;
  };

  const orders = {
    rows: () => 0,
    unsure: (a, b) => run().entropy[b] - run().entropy[a],
    sure: (a, b) => run().entropy[a] - run().entropy[b],
    unlikely: (a, b) => (run().log_lik[a] ?? -1e300) - (run().log_lik[b] ?? -1e300),
  };

  const fillList = () => {
    const all = set().rows.map((_, i) => i);
    shown = all.filter(wanted).sort(orders[filters.order.value]);
    if (!shown.includes(chosen)) chosen = shown[0] ?? -1;
    list.replaceChildren(...shown.map(option));
    list.classList.toggle("striped", !set().picture);
    byId("explore-count").textContent = shown.length
      ? `${shown.length} of ${all.length} examples. Coloured strip: the most probable module of each layer${hasClasses(run(), set()) ? "; a cross: predicted wrongly" : ""}.`
      : "No example is like that.";
    choose(chosen);
  };

  const option = (i) => {
    const strip = make("span", { class: "strip", "aria-hidden": "true" });
    for (const module of modalModules(run(), i)) {
      const cell = make("span");
      cell.style.backgroundColor = colours[module][0];
      strip.append(cell);
    }
    const isWrong = hasClasses(run(), set()) && !isRight(run(), set(), i);
    const node = make(
      "div",
      { role: "option", id: `example-${i}`, "aria-selected": "false", "aria-label": inWords(i), title: inWords(i), class: isWrong ? "wrong" : null },
      miniature(set(), i),
      strip,
    );
    if (!set().picture) node.append(make("span", { class: "number", "aria-hidden": "true" }, String(set().rows[i])));
    node.addEventListener("click", () => {
      choose(i);
      list.focus({ preventScroll: true });
      if (panel.getBoundingClientRect().top > innerHeight - 200) panel.scrollIntoView();
    });
    return node;
  };

  const inWords = (i) => {
    const words = [`example ${set().rows[i]}`];
    if (hasClasses(run(), set())) {
      words.push(`true ${className(set(), set().y[i])}`, `predicted ${className(set(), predictedClass(run(), i))}`);
    }
    words.push(`route ${modalModules(run(), i).join("-")}`);
    return words.join(", ");
  };

  const choose = (i) => {
    list.querySelector('[aria-selected="true"]')?.setAttribute("aria-selected", "false");
    chosen = i;
    const node = byId(`example-${i}`);
    panel.hidden = !node;
    if (!node) {
      list.removeAttribute("aria-activedescendant");
      return;
    }
    node.setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", node.id);
    // only the list scrolls, not the page
    const [top, bottom] = [node.offsetTop, node.offsetTop + node.offsetHeight];
    if (top < list.scrollTop) list.scrollTop = top - 6;
    else if (bottom > list.scrollTop + list.clientHeight) list.scrollTop = bottom - list.clientHeight + 6;
    title.textContent = `Example ${set().rows[i]}`;
    body.replaceChildren(
      facts(i),
      inputPart(set(), i),
      predictionPart(run(), set(), i),
      layersPart(run(), set(), colours, i),
      routesPart(run(), colours, i),
      everyRun(i),
    );
  };

  const facts = (i) => {
    const found = [];
    if (hasClasses(run(), set())) {
      const verdict = isRight(run(), set(), i) ? "right" : "wrong";
      found.push(["true class", className(set(), set().y[i])]);
      found.push(["predicted", `${className(set(), predictedClass(run(), i))}, ${verdict}`]);
    } else if (set().y !== null && set().y[i].length <= 3) {
      found.push(["target y", set().y[i].map((value) => significant(value)).join(", ")]);
    }
    if (set().routes) found.push(["true route", `${set().routes[i].join(" \u2192 ")} (own labels)`]);
    found.push(["log p(y|x)", `${fixed(run().log_lik[i], 3)} nats`]);
    found.push(["route entropy", `${nats(run().entropy[i])}, mean over layers`]);
    return make("dl", { class: "facts" }, ...found.map(([name, text]) => make("div", {}, make("dt", {}, name), make("dd", {}, text))));
  };

  const everyRun = (i) => {
    const same = runs.map((other, number) => [other, number]).filter(([other]) => other.set === run().set);
    if (same.length < 2) return "";
    const rows = same.map(([other, number]) => {
      const button = make("button", { type: "button", "aria-pressed": String(other === run()) }, other.name);
      button.addEventListener("click", () => {
        filters.run.value = String(number);
        update();
        body.querySelectorAll(".every button")[same.findIndex(([, at]) => at === number)]?.focus();
      });
      return make(
        "tr",
        {},
        make("th", { scope: "row" }, button),
        hasClasses(other, set()) ? make("td", {}, className(set(), predictedClass(other, i)), isRight(other, set(), i) ? "" : " \u2717") : null,
        make("td", {}, routeChips(modalModules(other, i), colours)),
        make("td", { class: "value" }, fixed(other.entropy[i], 3)),
        make("td", { class: "value" }, fixed(other.log_lik[i], 3)),
      );
    });
    const labels = ["run", ...(hasClasses(run(), set()) ? ["predicted"] : []), "route", "entropy", "log p(y|x)"];
    const details = make(
      "details",
      { class: "every", open: isOpen },
      make("summary", {}, "This example under every run"),
      make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "This example under every run" }, make("table", { class: "small" }, headRow(...labels), make("tbody", {}, ...rows))),
      make("p", { class: "hint" }, "Module labels are each run\u2019s own."),
    );
    details.addEventListener("toggle", () => (isOpen = details.open));
    return details;
  };

  const step = (by) => {
    const at = shown.indexOf(chosen) + by;
    if (shown.length) choose(shown[Math.min(shown.length - 1, Math.max(0, at))]);
  };

  const columns = () => {
    const nodes = [...list.children];
    const next = nodes.findIndex((node) => node.offsetTop > nodes[0].offsetTop);
    return next < 0 ? nodes.length : next;
  };

  const update = () => {
    chosen = Math.min(chosen, set().rows.length - 1);
    fillFilters();
    fillList();
  };

  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = {
      ArrowRight: () => step(1),
      ArrowLeft: () => step(-1),
      ArrowDown: () => step(columns()),
      ArrowUp: () => step(-columns()),
      PageDown: () => step(5 * columns()),
      PageUp: () => step(-5 * columns()),
      Home: () => step(-shown.length),
      End: () => step(shown.length),
      " ": () => choose(chosen),
      Enter: () => panel.focus(),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key === "Escape") list.focus();
  });

  const buttons = [["Previous", -1], ["Next", 1]].map(([label, by]) => {
    const button = make("button", { type: "button" }, label);
    button.addEventListener("click", () => step(by));
    return button;
  });
  panel.append(make("div", { class: "bar" }, title, make("div", { class: "buttons" }, ...buttons)), body);
  refill(filters.run, runs.map(({ name }, number) => [number, name]));
  for (const filter of Object.values(filters)) filter.addEventListener("change", update);
  byId("explore").hidden = false;
  update();
}

function refill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, label]) => make("option", { value: String(value) }, label)));
  select.value = before;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}
