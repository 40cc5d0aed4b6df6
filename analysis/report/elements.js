// What the explorer is made of. All text enters the page as text, never as markup.
const UNIT = 10000; // probabilities are stored in these parts of one

const make = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
};

const drawing = (tag, attributes, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};

const minus = (text) => text.replace("-", "\u2212");
const fixed = (value, digits) => (value === null ? "not finite" : minus(value.toFixed(digits)));
const significant = (value, digits = 3) =>
  value === null ? "not finite" : minus(String(Number(value.toPrecision(digits))));

// As many digits as the spread has two of.
const withError = (value, spread) => {
  if (value === null || !spread) return significant(value);
  const digits = Math.min(6, Math.max(0, 1 - Math.floor(Math.log10(spread))));
  return `${fixed(value, digits)} \u00b1 ${fixed(spread, digits)}`;
};
const nats = (value) => {
  if (value === null) return "infinitely many nats";
  return value < 0.005 ? "less than 0.01 nats" : `${fixed(value, 2)} nats`;
};

// A probability that is not quite 0 or 1 is said not to be.
const share = (parts) => {
  if (parts === 0 || parts === UNIT) return parts ? "1" : "0";
  if (parts < UNIT / 200) return "<0.01";
  return parts > UNIT - UNIT / 200 ? ">0.99" : (parts / UNIT).toFixed(2);
};

const bar = (fraction, colour = null) => {
  const filled = make("span", { class: "filled" });
  filled.style.width = `${100 * Math.min(1, fraction)}%`;
  if (colour) filled.style.backgroundColor = colour;
  return make("span", { class: "track", "aria-hidden": "true" }, filled);
};

const chip = (module, colours) => {
  const node = make("span", { class: "chip" }, String(module));
  [node.style.backgroundColor, node.style.color] = colours[module];
  return node;
};

const routeChips = (modules, colours) =>
  make(
    "span",
    { class: "chips" },
    ...modules.flatMap((module, i) => (i ? ["\u2009\u2192\u2009", chip(module, colours)] : [chip(module, colours)])),
  );

const argmax = (values) => values.indexOf(Math.max(...values));

// The part of a row of all sites' modules that is one site's.
const atSite = (row, choices, site) => {
  const start = choices.slice(0, site).reduce((sum, count) => sum + count, 0);
  return row.slice(start, start + choices[site]);
};

const modalModules = (run, i) =>
  run.sites.map((_, site) => argmax(atSite(run.posterior[i], run.choices, site)));

const className = (set, klass) => set.classes[klass] ?? String(klass);
const predictedClass = (run, i) => argmax(run.prediction.probs[i]);
const isRight = (run, set, i) => predictedClass(run, i) === set.y[i];
const hasClasses = (run, set) => Boolean(run.prediction?.probs) && set.y !== null;

// Standard deviations from the mean of all examples.
const unusual = (features, i, k) => {
  const value = features.values[i][k];
  const spread = features.sd[k];
  return value === null || !spread ? 0 : (value - features.mean[k]) / spread;
};

// An example as a small picture: its pixels, or a stripe a feature, blue below its mean
// and orange above.
const miniature = (set, i) => {
  const { picture, features } = set;
  if (!picture && !features) return null;
  const width = picture ? picture.width : features.names.length;
  const height = picture ? picture.height : 1;
  const canvas = make("canvas", { width, height, "aria-hidden": "true" });
  canvas.className = picture ? "picture" : "stripes";
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  if (picture) {
    picture.pixels ??= Uint8Array.from(atob(picture.bytes), (sign) => sign.charCodeAt(0));
  }
  for (let at = 0; at < width * height; at++) {
    const colour = picture ? ink(picture.pixels[i * width * height + at]) : tint(unusual(features, i, at));
    image.data.set([...colour, 255], 4 * at);
  }
  context.putImageData(image, 0, 0);
  return canvas;
};

const ink = (value) => [255 - value, 255 - value, 255 - value];

const tint = (z) => {
  const full = z < 0 ? [0, 114, 178] : [213, 94, 0];
  const strength = Math.min(1, Math.abs(z) / 2.5);
  return full.map((part) => 255 + (part - 255) * strength);
};
