// The chosen example: input, prediction, router and posterior, whole routes.
const MOST_MODULES = 12;
const MOST_CLASSES = 10;

const heading = (text, ...more) => make("h4", {}, text, ...more);
const part = (kind, ...children) => make("section", { class: kind }, ...children);
const headRow = (...labels) =>
  make("thead", {}, make("tr", {}, ...labels.map((label) => make("th", { scope: "col" }, label))));

const inputPart = (set, i) => {
  const section = part("input", heading("Input x"));
  const { picture, features } = set;
  if (picture) {
    const canvas = miniature(set, i);
    canvas.removeAttribute("aria-hidden");
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `the input as a picture of ${picture.height} by ${picture.width} pixels`);
    section.append(canvas);
    if (picture.step > 1) section.append(make("p", { class: "hint" }, `Every ${picture.step}th pixel.`));
  } else if (features) {
    section.append(featureTable(features, i));
  } else {
    const shape = set.shape ? `of shape ${set.shape.join(" \u00d7 ")}` : "";
    section.append(make("p", { class: "hint" }, set.shape ? `An input ${shape} is not drawn.` : "The tree holds no inputs."));
  }
  return section;
};

const featureTable = (features, i) => {
  const rows = features.names.map((name, k) => {
    const z = unusual(features, i, k);
    const filled = make("span", { class: z < 0 ? "below" : "above" });
    filled.style.width = `${(50 * Math.min(3, Math.abs(z))) / 3}%`;
    return make(
      "tr",
      {},
      make("th", { scope: "row", title: name }, name),
      make("td", { class: "wide" }, make("span", { class: "centred", "aria-hidden": "true" }, filled)),
      make("td", { class: "value" }, significant(features.values[i][k])),
    );
  });
  const left = features.of - features.names.length;
  const note = "Bars: distance from the mean of all examples, at most 3 standard deviations.";
  return make(
    "div",
    {},
    make(
      "div",
      { class: "tall", tabindex: "0", role: "region", "aria-label": "features" },
      make("table", { class: "small" }, make("tbody", {}, ...rows)),
    ),
    make("p", { class: "hint" }, left ? `${note} ${left} more features are not shown.` : note),
  );
};

const predictionPart = (run, set, i) => {
  const section = part("prediction", heading("Prediction p(y|x)"));
  if (!run.prediction) {
    section.append(make("p", { class: "hint" }, "This program scores targets and predicts none."));
  } else if (run.prediction.probs) {
    section.append(classTable(run, set, i));
  } else {
    section.append(outputTable(run, set, i));
    const most = run.prediction.of - run.prediction.mean[i].length;
    const note = "Dot and thick line: mean \u00b1 standard deviation of y. Thin: 90% of its draws. Cross: the true y.";
    section.append(make("p", { class: "hint" }, most ? `${note} ${most} more outputs are not shown.` : note));
  }
  return section;
};

const classTable = (run, set, i) => {
  const probs = run.prediction.probs[i];
  const truth = set.y === null ? -1 : set.y[i];
  const order = probs.map((_, klass) => klass).sort((a, b) => probs[b] - probs[a]);
  const shown = order.slice(0, MOST_CLASSES);
  if (truth >= 0 && !shown.includes(truth)) shown.push(truth);
  const rows = shown.map((klass) =>
    make(
      "tr",
      { class: klass === truth ? "true" : null },
      make(
        "th",
        { scope: "row", title: className(set, klass) },
        klass === truth ? make("b", { class: "mark" }, "true") : null,
        className(set, klass),
      ),
      make("td", { class: "wide" }, bar(probs[klass] / UNIT)),
      make("td", { class: "value" }, share(probs[klass])),
    ),
  );
  const table = make("table", { class: "small" }, make("tbody", {}, ...rows));
  const left = probs.length - shown.length;
  return left ? make("div", {}, table, make("p", { class: "hint" }, `${left} less probable classes are not shown.`)) : table;
};

const outputTable = (run, set, i) => {
  const { mean, sd, low, high } = run.prediction;
  const rows = mean[i].map((_, k) => {
    const y = set.y === null ? null : set.y[i][k];
    const known = [low, high, ...(set.y ? [set.y] : [])].flatMap((all) => all.map((row) => row[k]));
    const finite = known.filter((value) => value !== null);
    const ends = finite.length ? [Math.min(...finite), Math.max(...finite)] : [0, 1];
    return make(
      "tr",
      {},
      make("th", { scope: "row" }, mean[i].length > 1 ? `y[${k}]` : "y"),
      make("td", { class: "value" }, withError(mean[i][k], sd[i][k])),
      make("td", { class: "wide" }, interval(mean[i][k], sd[i][k], low[i][k], high[i][k], y, ends)),
      make("td", { class: "value" }, set.y === null ? "\u2013" : significant(y)),
    );
  });
  return make("table", { class: "small" }, headRow("", "mean \u00b1 sd", "", "true"), make("tbody", {}, ...rows));
};

const interval = (mean, sd, low, high, y, [first, last]) => {
  const at = (value) => `${2 + (96 * (Math.min(last, Math.max(first, value)) - first)) / (last - first || 1)}%`;
  const line = (kind, from, to) => drawing("line", { class: kind, x1: at(from), x2: at(to), y1: 10, y2: 10 });
  const picture = drawing("svg", { class: "interval", "aria-hidden": "true" });
  picture.append(line("axis", first, last));
  if ([mean, sd, low, high].includes(null)) return picture;
  picture.append(line("draws", low, high), line("sd", mean - sd, mean + sd));
  picture.append(drawing("circle", { cx: at(mean), cy: 10, r: 4 }));
  if (y !== null) {
    const cross = drawing("path", { d: "M-4 6L4 14M-4 14L4 6" });
    picture.append(drawing("svg", { class: "truth", x: at(y) }, cross));
  }
  return picture;
};

const layersPart = (run, set, colours, i) => {
  const tables = run.sites.map((_, site) => layerTable(run, set, colours, i, site));
  const section = part("layers", heading("Route, layer by layer"), make("div", { class: "side" }, ...tables));
  if (set.routes && run.matched) {
    section.append(make("p", { class: "hint" }, "true: the module that acts most like the true one, matched one to one."));
  }
  if (!run.router) section.append(make("p", { class: "hint" }, "This run holds no router probabilities."));
  if (run.posterior.length > 1 && run.posterior.every((row) => String(row) === String(run.posterior[0]))) {
    section.append(make("p", { class: "hint" }, "The same for every example: one route serves them all."));
  }
  return section;
};

const layerTable = (run, set, colours, i, site) => {
  const posterior = atSite(run.posterior[i], run.choices, site);
  const router = run.router ? atSite(run.router[i], run.choices, site) : null;
  const largest = posterior.map((p, module) => Math.max(p, router ? router[module] : 0));
  const order = largest.map((_, module) => module).sort((a, b) => largest[b] - largest[a]);
  const truth = set.routes && run.matched ? run.matched[site].indexOf(set.routes[i][site]) : -1;
  const kept = new Set(order.slice(0, MOST_MODULES));
  if (truth >= 0) kept.add(truth);
  const shown = [...kept].sort((a, b) => a - b);
  const rows = shown.map((module) => {
    const cells = (probs, kind) => [bar(probs[module] / UNIT, colours[module][0]), make("span", { class: `value ${kind}` }, share(probs[module]))];
    return make(
      "tr",
      {},
      router ? make("td", { class: "router" }, make("div", {}, ...cells(router, "").reverse())) : null,
      make("th", { scope: "row" }, chip(module, colours), module === truth ? make("b", { class: "mark" }, "true") : null),
      make("td", { class: "posterior" }, make("div", {}, ...cells(posterior, ""))),
    );
  });
  const labels = router ? ["router p(a|x)", "module", "posterior p(a|x,y)"] : ["module", "posterior p(a|x,y)"];
  const left = posterior.length - shown.length;
  const notes = [
    run.moved ? `y moved it by ${nats(run.moved[i][site])}` : "",
    left ? `${left} less probable modules not shown` : "",
  ];
  return make(
    "table",
    { class: "small layer" },
    make("caption", {}, make("strong", {}, run.sites[site]), ` ${notes.filter(Boolean).join("; ")}`),
    headRow(...labels),
    make("tbody", {}, ...rows),
  );
};

const routesPart = (run, colours, i) => {
  const rows = run.routes[i].map(([times, ...modules]) =>
    make(
      "tr",
      {},
      make("th", { scope: "row" }, routeChips(modules, colours)),
      make("td", { class: "wide" }, bar(times / run.draws)),
      make("td", { class: "value" }, share(Math.round((UNIT * times) / run.draws))),
    ),
  );
  const counted = run.routes[i].reduce((sum, [times]) => sum + times, 0);
  const rest = counted < run.draws ? ` Others: ${share(Math.round((UNIT * (run.draws - counted)) / run.draws))}.` : "";
  const chains = run.chains > 1 ? ` in ${run.chains} chains` : "";
  return part(
    "routes",
    heading("Whole routes p(a|x,y)"),
    make("table", { class: "small" }, make("tbody", {}, ...rows)),
    make("p", { class: "hint" }, `Shares of ${run.draws.toLocaleString("en")} draws${chains}.${rest}`),
  );
};
