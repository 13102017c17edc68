"use strict";
// The matching explorer. The header (json) names detectors, images and objects; each image's numbers lie in a block
// of their own that is unpacked when the image is looked at. Numbers are the toolkit's own: nothing here computes a
// confidence. All foreign text goes through textContent.

const SVG = "http://www.w3.org/2000/svg", MATH = "http://www.w3.org/1998/Math/MathML";
const byId = (id) => document.getElementById(id);
const header = JSON.parse(byId("header").textContent);
const UNKNOWN = -32768; // a box that is not there

function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}
function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}
function math(tag, ...children) {
  return fill(document.createElementNS(MATH, tag), {}, children);
}
function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name in { textContent: 1, checked: 1, value: 1, className: 1 } && !(element instanceof SVGElement)) element[name] = value;
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

// ---------------------------------------------------------------------------------------------- numbers in words

function number(x) {
  if (x === 0 || x >= 0.0095) return x.toFixed(x >= 0.9995 && x < 1 ? 4 : 3);
  return x < 1e-4 ? "< 0.0001" : x.toPrecision(2);
}
// P cls and P loc as they are written.
const symbols = (text) => text.split(/P (cls|loc)/).flatMap((part, i) => (i % 2 ? [make("i", { textContent: "P" }), make("sup", { textContent: part })] : part ? [part] : []));
const percent = (x) => `${(100 * x).toFixed(x < 0.0995 && x > 0 ? 1 : 0)}\u00a0%`;
const count = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const few = (n) => n.toFixed(n < 9.5 ? 1 : 0);
const thousands = (n) => n.toLocaleString("en");

// ---------------------------------------------------------------------------------------------- detectors and stages

// With one detector the other side shows what the other method makes of the same network.
const sides = header.detectors.map((detector, source) => ({ ...detector, source, isReal: true }));
if (sides.length === 1) {
  const [own] = sides;
  const other = own.kind === "hard"
    ? { name: "Mean-max", kind: "soft", rule: `what it would make of ${own.name}`, colour: "#D4481C" }
    : { name: "By hand", kind: "hard", isFixed: true, rule: `${header.byHand}, as RetinaNet does`, colour: "#6F8FB3" };
  sides.splice(own.kind === "hard" ? 1 : 0, 0, { ...own, ...other, isReal: false });
}

// Places of the slider: every step that a detector was kept at before its end, then the end of training.
const moments = [...new Set(header.detectors.flatMap((one) => one.steps.slice(0, -1)))].sort((a, b) => a - b);
const endStep = Math.max(...header.detectors.map((one) => one.steps.at(-1) ?? 0));
moments.push("end");

function stageOf(side, moment) {
  const last = side.steps.length - 1, place = side.steps.indexOf(moment);
  return moment === "end" || place < 0 ? last : place;
}
function momentText(moment) {
  if (moment === "end") return endStep ? `end, step ${thousands(endStep)}` : "end of training";
  return `step ${thousands(moment)}${endStep ? ` of ${thousands(endStep)}` : ""}`;
}

// ---------------------------------------------------------------------------------------------- blocks

const unpacked = new Map();
function block(image) {
  if (!unpacked.has(image)) unpacked.set(image, unpack(byId(`block-${image}`).textContent));
  return unpacked.get(image);
}
const KINDS = { uint8: Uint8Array, int16: Int16Array, uint16: Uint16Array, float32: Float32Array };

async function unpack(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  const head = bytes.indexOf(10);
  const content = bytes.subarray(head + 1), arrays = {};
  for (const [name, kind, shape, first, factor] of JSON.parse(new TextDecoder().decode(bytes.subarray(0, head)))) {
    const size = shape.reduce((a, b) => a * b, 1), width = KINDS[kind].BYTES_PER_ELEMENT;
    const plain = new Uint8Array(size * width); // bytes lie by their place in a number: all first ones, all second ones
    for (let byte = 0; byte < width; byte++)
      for (let i = 0; i < size; i++) plain[i * width + byte] = content[first + byte * size + i];
    arrays[name] = { values: new KINDS[kind](plain.buffer), shape, factor };
  }
  return arrays;
}

// The numbers of one object under one side at one moment.
class Bag {
  constructor(arrays, side, moment, object) {
    Object.assign(this, { arrays, side, object, stage: stageOf(side, moment) });
    this.size = this.array("iou").shape[1];
    this.numTaught = Array.from({ length: this.size }, (_, a) => this.perAnchor("taught", a)).filter((share) => share > 0).length;
  }
  array(name) { return this.arrays[`${this.side.source}/${name}`]; }
  read(name, ...index) {
    const { values, shape, factor } = this.array(name);
    return values[index.reduce((sum, i, axis) => sum * shape[axis] + i, 0)] * factor;
  }
  grid(name, anchor) { return this.read(name, this.object, anchor); }
  perAnchor(name, anchor) { return this.read(name, this.stage, this.object, anchor); }
  perObject(name, ...rest) { return this.read(name, this.stage, this.object, ...rest); }
  box(name, ...index) {
    const corners = [0, 1, 2, 3].map((i) => this.read(name, ...index, i));
    return corners[0] === UNKNOWN * this.array(name).factor ? null : corners;
  }
  anchor(a) { return this.box("anchors", this.object, a); }
  predicted(a) { // stored as distances from the object's corners
    return this.box("predicted", this.stage, this.object, a).map((value, i) => value + image().objects[this.object].box[i]);
  }
  nms(which) {
    const box = this.box("nms_boxes", this.stage, this.object, which);
    if (!box) return null;
    const [score, iou] = [0, 1].map((i) => this.read("nms_scores", this.stage, this.object, which, i));
    return { box, score, iou, anchor: this.perObject("nms_anchor", which) };
  }
  get summary() {
    const [meanMax, mean, max, effective] = [0, 1, 2, 3].map((i) => this.perObject("summary", i));
    return { meanMax, mean, max, effective };
  }
  // Of metric `role`: what an anchor is given of the object to learn.
  value(metric, a) {
    if (metric === "role") return this.perAnchor(this.side.kind === "hard" ? "taught" : "share", a);
    return metric === "iou" || metric === "by_iou" ? this.grid(metric, a) : this.perAnchor(metric, a);
  }
  strongest(metric) {
    let best = 0;
    for (let a = 1; a < this.size; a++) if (this.value(metric, a) > this.value(metric, best)) best = a;
    return best;
  }
}

const METRICS = {
  role: ["learns it", "how much of the object an anchor is given to learn"],
  cls_prob: ["P cls", "the probability of the object's class"],
  loc_prob: ["P loc", "how well the predicted box fits"],
  confidence: ["P cls × P loc", "the confidence of Eq. 7"],
  share: ["share in Mean-max", "the weight in the mean of Eq. 7"],
  iou: ["IoU", "the anchor's overlap with the object"],
  by_iou: ["IoU assignment", "1 where the rule by hand assigns the anchor"],
};

// ---------------------------------------------------------------------------------------------- state and address

const state = {
  image: 0, object: 0, moment: "end", metric: "role", marks: "dots", level: "all", ratio: "all", nms: false,
  filter: "all", sort: "drawn", left: 0, right: Math.min(1, sides.length - 1), anchor: 0,
};
const shownSides = () => [sides[state.left], sides[state.right]];
const image = () => header.images[state.image];

function writeHash() {
  const words = { image: image().id, object: image().objects[state.object].id, step: state.moment };
  const usual = { metric: "role", marks: "dots", level: "all", ratio: "all", filter: "all", sort: "drawn", left: 0, right: 1 };
  for (const [name, value] of Object.entries(usual)) if (state[name] !== value) words[name] = state[name];
  if (state.nms) words.nms = 1;
  history.replaceState(null, "", `#${new URLSearchParams(words)}`);
}
function readHash() {
  const words = new URLSearchParams(location.hash.slice(1));
  const place = header.images.findIndex((one) => String(one.id) === words.get("image"));
  if (place >= 0) {
    state.image = place;
    state.object = Math.max(0, header.images[place].objects.findIndex((one) => String(one.id) === words.get("object")));
  }
  const step = words.get("step");
  if (step) state.moment = moments.find((one) => String(one) === step) ?? "end";
  const known = {
    metric: Object.keys(METRICS), marks: ["dots", "boxes"], sort: sorts().map(([name]) => name),
    filter: filters().map(([name]) => name),
  };
  for (const [name, values] of Object.entries(known)) if (values.includes(words.get(name))) state[name] = words.get(name);
  for (const name of ["level", "ratio"]) if (/^(all|\d+)$/.test(words.get(name) ?? "")) state[name] = words.get(name);
  for (const name of ["left", "right"]) if (/^\d+$/.test(words.get(name) ?? "") && sides[+words.get(name)]) state[name] = +words.get(name);
  state.nms = words.get("nms") === "1";
}

// ---------------------------------------------------------------------------------------------- filters and lists

const foundBy = (object, side) => object.found[side.source].at(-1) === 1;

function filters() {
  const all = header.images.flatMap((one) => one.objects);
  const options = [["all", "all", () => true]];
  for (const [name, meaning] of Object.entries(header.groups))
    if (all.some((one) => one.groups.includes(name))) options.push([name, `${name}: ${meaning}`, (one) => one.groups.includes(name)]);
  if (header.detectors.length > 1) {
    const pair = () => shownSides();
    options.push(["one", "found by one of the two only", (one) => foundBy(one, pair()[0]) !== foundBy(one, pair()[1])]);
    for (const [place, other] of [[0, 1], [1, 0]])
      options.push([`only${place}`, `found by ${pair()[place].name} only`, (one) => foundBy(one, pair()[place]) && !foundBy(one, pair()[other])]);
  }
  options.push(["lost", header.detectors.length > 1 ? "found by neither" : "not found", (one) => shownSides().every((side) => !foundBy(one, side))]);
  return options;
}
function sorts() {
  const what = header.detectors.length > 1 ? "most disagreement of the two first" : "most disagreement with IoU first";
  return [["drawn", "in the order drawn"], ["decided", "most decided first"], ["disagreement", what], ["objects", "most objects first"]];
}
const passes = (object) => filters().find(([name]) => name === state.filter)[2](object);

// Of which object an image has its place. An object is the more decided the fewer anchors count at the end.
const ORDERS = { decided: (object) => -object.effective, disagreement: (object) => object.disagreement };

// Images with objects that pass, in order; of each the objects that pass.
function listed() {
  const found = header.images.map((one, place) => ({
    place, objects: one.objects.flatMap((object, index) => (passes(object) ? [index] : [])),
  })).filter((one) => one.objects.length);
  const most = (one) => Math.max(...one.objects.map((index) => ORDERS[state.sort](header.images[one.place].objects[index])));
  const order = state.sort in ORDERS ? most : state.sort === "objects" ? (one) => header.images[one.place].objects.length : null;
  if (order) found.sort((a, b) => order(b) - order(a) || a.place - b.place);
  return found;
}
// Which object of an image comes first.
function firstObject(entry) {
  const own = header.images[entry.place].objects;
  const by = ORDERS[state.sort] ?? (({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1));
  return entry.objects.reduce((best, index) => (by(own[index]) > by(own[best]) ? index : best));
}

// A group of radio buttons: one is in the order of Tab, arrows move and choose.
function roving(container, choose) {
  container.addEventListener("keydown", (event) => {
    const moves = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const buttons = [...container.children], now = buttons.indexOf(document.activeElement);
    const next = Math.min(buttons.length - 1, Math.max(0, now + moves[event.key]));
    choose(+buttons[next].dataset.place);
    [...container.children].find((one) => one.dataset.place === buttons[next].dataset.place)?.focus();
  });
  container.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) choose(+button.dataset.place);
  });
}
function mark(container, place) {
  for (const button of container.children) {
    const isChosen = +button.dataset.place === place;
    button.setAttribute("aria-checked", isChosen);
    button.tabIndex = isChosen ? 0 : -1;
  }
  if (container.firstChild && ![...container.children].some((one) => one.tabIndex === 0)) container.firstChild.tabIndex = 0;
}

function showFilm() {
  const film = byId("film"), entries = listed();
  film.replaceChildren(...entries.map(({ place, objects }) => {
    const { width, height, file, blurred } = header.images[place];
    const label = `${file}: ${count(objects.length, "object")}${blurred ? ", blurred" : ""}`;
    return make("button", { type: "button", role: "radio", "data-place": place, "aria-label": label, title: label },
      make("img", { src: byId(`image-${place}`).textContent, width, height, alt: "", loading: "lazy", decoding: "async" }),
      make("small", { textContent: objects.length, "aria-hidden": "true" }));
  }));
  const total = entries.reduce((sum, one) => sum + one.objects.length, 0);
  byId("count").textContent = total ? `${count(total, "object")} in ${count(entries.length, "image")}` : "No object is like that; choose another filter.";
  mark(film, state.image);
}
const label = (object) => header.categories[object.category];

function showObjects() {
  const own = image().objects, group = byId("objects"), key = `${state.image} ${state.filter} ${state.left} ${state.right}`;
  if (group.dataset.key === key) return mark(group, state.object); // whatever has the focus keeps it
  group.dataset.key = key;
  group.replaceChildren(...own.map((object, place) => make("button", {
    type: "button", role: "radio", "data-place": place, className: passes(object) ? "" : "out",
    textContent: `${place + 1} ${label(object)}`,
  })));
  mark(group, state.object);
  byId("credit").textContent = [image().file, image().credit, image().blurred ? "blurred: its licence does not allow to show it" : ""].filter(Boolean).join(" · ");
}

function showMap() {
  const { width, height, objects, file } = image(), map = byId("map"), stroke = Math.max(width, height) / 220;
  map.setAttribute("viewBox", `0 0 ${width} ${height}`);
  map.setAttribute("aria-label", `${file}: ${count(objects.length, "object")}; click one to pick it`);
  map.replaceChildren(draw("image", { href: byId(`image-${state.image}`).textContent, width, height }));
  const frame = (place, look) => {
    const [x1, y1, x2, y2] = objects[place].box;
    return draw("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, ...look });
  };
  objects.forEach((object, place) => {
    map.append(frame(place, { stroke: "#111", "stroke-width": 2 * stroke, "stroke-opacity": 0.55 }));
    map.append(frame(place, { stroke: "#fff", "stroke-width": stroke, "stroke-opacity": passes(object) ? 1 : 0.45, "stroke-dasharray": passes(object) ? null : 3 * stroke }));
  });
  map.append(frame(state.object, { stroke: "#111", "stroke-width": 4.5 * stroke }));
  map.append(frame(state.object, { stroke: "#ffd23f", "stroke-width": 2.5 * stroke }));
}
function objectAt(event) {
  const point = toSvg(byId("map"), event);
  const near = image().objects.map(({ box: [x1, y1, x2, y2] }, place) => {
    const outside = Math.hypot(Math.max(x1 - point.x, 0, point.x - x2), Math.max(y1 - point.y, 0, point.y - y2));
    return { place, outside, area: (x2 - x1) * (y2 - y1) };
  });
  near.sort((a, b) => a.outside - b.outside || a.area - b.area); // of boxes in boxes the innermost
  return near[0].place;
}
function toSvg(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

// ---------------------------------------------------------------------------------------------- panels

const WIDTH = 600; // of a panel's drawing, in its own units: sizes of marks are in these
let scene = null; // what is drawn: arrays, window, panels

function windowAround(bags, object) {
  const { width, height } = image();
  const points = [[object.box[0], object.box[1]], [object.box[2], object.box[3]]];
  for (const bag of bags) for (let a = 0; a < bag.size; a++) points.push(centre(bag.anchor(a)));
  const low = [0, 1].map((axis) => Math.min(...points.map((point) => point[axis])));
  const high = [0, 1].map((axis) => Math.max(...points.map((point) => point[axis])));
  const sidesOf = low.map((value, axis) => 1.16 * (high[axis] - value) + 8);
  const wide = Math.max(sidesOf[0], sidesOf[1] * 4 / 3, 40), tall = wide * 3 / 4;
  const inside = (middle, side, limit) => (side >= limit ? (limit - side) / 2 : Math.min(limit - side, Math.max(0, middle - side / 2)));
  return { x: inside((low[0] + high[0]) / 2, wide, width), y: inside((low[1] + high[1]) / 2, tall, height), scale: WIDTH / wide };
}
const centre = ([x1, y1, x2, y2]) => [(x1 + x2) / 2, (y1 + y2) / 2];
const place = ({ x, y, scale }, [x1, y1, x2, y2]) => ({ x: (x1 - x) * scale, y: (y1 - y) * scale, width: Math.max(0, (x2 - x1) * scale), height: Math.max(0, (y2 - y1) * scale) });

// Dots of anchors that share a centre stand around it.
function dotPlaces(bag, view) {
  const groups = new Map(), spots = [];
  for (let a = 0; a < bag.size; a++) {
    const [x, y] = centre(bag.anchor(a)).map((value, axis) => (value - [view.x, view.y][axis]) * view.scale);
    const key = `${Math.round(x / 6)} ${Math.round(y / 6)}`;
    const number = groups.get(key) ?? 0;
    groups.set(key, number + 1);
    const angle = number * 2.39996, radius = 11.5 * Math.sqrt(number); // a sunflower: even, whatever the number
    spots.push([x + radius * Math.cos(angle), y + radius * Math.sin(angle)]);
  }
  return spots;
}
function darker(colour) {
  const parts = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16) * 0.74);
  return `rgb(${parts.map(Math.round).join(" ")})`;
}
const isShown = (bag, a) => (state.level === "all" || bag.grid("level", a) === +state.level) && (state.ratio === "all" || bag.grid("ratio", a) === +state.ratio);

function buildPanels(arrays) {
  const object = image().objects[state.object];
  const bags = shownSides().map((side) => new Bag(arrays, side, state.moment, state.object));
  const view = windowAround(bags, object);
  scene = { arrays, view, isLinked: sameGrid(...bags), panels: bags.map((bag, index) => buildPanel(bag, index, view, object)) };
  byId("panels").replaceChildren(...scene.panels.map((panel) => panel.root));
}
// Whether both sides have the same anchors in the bag, so that one can be looked at in both.
function sameGrid(one, other) {
  if (one.size !== other.size) return false;
  for (let a = 0; a < one.size; a++)
    if (one.anchor(a).some((value, i) => Math.abs(value - other.anchor(a)[i]) > 0.2)) return false;
  return true;
}

function buildPanel(bag, index, view, object) {
  const { side } = bag, { width, height } = image(), colour = darker(side.colour);
  const svg = draw("svg", { class: "stage", viewBox: `0 0 ${WIDTH} ${WIDTH * 0.75}`, role: "img" });
  const whole = place(view, [0, 0, width, height]);
  svg.append(draw("image", { href: byId(`image-${state.image}`).textContent, ...whole, preserveAspectRatio: "none" }));
  svg.append(draw("rect", { ...whole, fill: "#f1f3f6", "fill-opacity": 0.58 }));
  const spots = dotPlaces(bag, view), marks = [], rects = [];
  const layer = svg.appendChild(draw("g"));
  for (let a = bag.size - 1; a >= 0; a--) { // the first on top
    const look = state.marks === "dots"
      ? draw("circle", { cx: spots[a][0].toFixed(1), cy: spots[a][1].toFixed(1), fill: colour, stroke: "#fff", "stroke-width": 1.2 })
      : draw("rect", { class: "anchor", ...place(view, bag.anchor(a)), fill: "none", stroke: colour });
    marks[a] = layer.appendChild(look);
  }
  const box = place(view, object.box);
  svg.append(draw("rect", { ...box, fill: "none", stroke: "#fff", "stroke-width": 5, "stroke-opacity": 0.85 }),
    draw("rect", { ...box, fill: "none", stroke: "#111418", "stroke-width": 2 }));
  const over = svg.appendChild(draw("g"));
  const bars = draw("svg", { class: "bars", viewBox: `0 0 ${WIDTH} 60`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const step = WIDTH / bag.size;
  for (let a = 0; a < bag.size; a++) rects.push(bars.appendChild(draw("rect", { x: (a + 0.12) * step, width: 0.76 * step, fill: colour })));
  bars.append(draw("line", { class: "axis", x1: 0, x2: WIDTH, y1: 59.5, y2: 59.5 }));
  const title = make("h3", {}, make("span", { className: "mark", style: `background:${side.colour}` }), sideName(side, index), make("span", { className: "soft" }));
  const claim = make("p", { className: "claim" });
  const root = make("div", { className: "panel" }, title, claim, svg, bars);
  listen(svg, bars, bag.size, index, spots);
  return { root, svg, marks, rects, over, claim, title, spots, index };
}
// The name of a side, or a choice of it where there are more than two.
function sideName(side, index) {
  if (sides.length <= 2) return make("span", { textContent: side.name });
  const select = make("select", { "aria-label": `detector on the ${index ? "right" : "left"}` },
    ...sides.map((one, number) => make("option", { value: number, textContent: one.name })));
  select.value = index ? state.right : state.left;
  select.addEventListener("change", () => {
    state[index ? "right" : "left"] = +select.value;
    showChoices();
    showAll();
  });
  return select;
}
function listen(svg, bars, size, index, spots) {
  const bySpot = (event) => {
    const point = toSvg(svg, event), bag = bagsNow()[index];
    let best = -1, nearest = 30; // in the drawing's units: a finger's width
    spots.forEach(([x, y], a) => {
      const distance = Math.hypot(x - point.x, y - point.y);
      if (isShown(bag, a) && distance < nearest) [best, nearest] = [a, distance];
    });
    if (best >= 0) pickAnchor(best, index);
  };
  const byBar = (event) => pickAnchor(Math.min(size - 1, Math.max(0, Math.floor(toSvg(bars, event).x / (WIDTH / size)))), index);
  for (const name of ["pointermove", "pointerdown"]) {
    svg.addEventListener(name, bySpot);
    bars.addEventListener(name, byBar);
  }
}
const bagsNow = () => shownSides().map((side) => new Bag(scene.arrays, side, state.moment, state.object));

// One scale for both sides and all moments, so that paler means less wherever one looks.
function darkest() {
  if (state.metric === "iou" || state.metric === "by_iou") return 1;
  let most = state.metric === "role" || state.metric === "share" ? 0.25 : 0.02; // a bag that has not decided is pale
  for (const moment of moments)
    for (const side of shownSides()) {
      const bag = new Bag(scene.arrays, side, moment, state.object);
      for (let a = 0; a < bag.size; a++) most = Math.max(most, bag.value(state.metric, a));
    }
  return most;
}

function showPanels() {
  const bags = bagsNow(), most = darkest();
  scene.panels.forEach((panel, index) => updatePanel(panel, bags[index], most));
  showScale(most);
  showAnchor();
  showFates(bags);
  showEquations(bags);
  byId("what").replaceChildren(...whatText(bags));
}
function updatePanel(panel, bag, most) {
  for (let a = 0; a < bag.size; a++) {
    const value = bag.value(state.metric, a), depth = Math.sqrt(value / most), shown = isShown(bag, a);
    const look = panel.marks[a];
    look.style.display = shown ? "" : "none";
    if (state.marks === "dots") {
      look.setAttribute("r", (3.2 + 7.3 * depth).toFixed(2));
      look.setAttribute("fill-opacity", (0.1 + 0.9 * depth).toFixed(3));
    } else {
      look.setAttribute("stroke-opacity", (0.07 + 0.93 * depth).toFixed(3));
      look.setAttribute("stroke-width", (0.8 + 3.2 * depth).toFixed(2));
    }
    const height = Math.max(value > 0 ? 1 : 0, 56 * value / most);
    panel.rects[a].setAttribute("y", (59 - height).toFixed(2));
    panel.rects[a].setAttribute("height", height.toFixed(2));
    panel.rects[a].setAttribute("fill-opacity", shown ? 1 : 0.2);
  }
  panel.title.lastChild.textContent = [bag.side.rule, lateText(bag)].filter(Boolean).join(" · ");
  panel.claim.textContent = claimText(bag);
  panel.svg.setAttribute("aria-label", `${bag.side.name} at ${momentText(state.moment)}: ${claimText(bag)}`);
}
// A detector of which this moment was not kept shows its end.
const lateText = (bag) => (state.moment !== "end" && !bag.side.steps.includes(state.moment) ? "shown at its end: this stage was not kept" : "");

function claimText(bag) {
  if (bag.side.kind === "hard") {
    const outside = bag.side.isReal ? bag.perObject("outside") : 0;
    const beyond = outside ? ` Anchors outside this bag have ${percent(outside)} of it.` : "";
    if (!bag.numTaught) return `No anchor of the bag is given this object.${beyond}`;
    const alike = bag.numTaught === 1 ? "" : ", all alike", when = bag.side.isFixed ? "from the first step to the last" : "at this stage";
    return `${count(bag.numTaught, "anchor")} ${bag.numTaught === 1 ? "learns" : "learn"} it${alike}, ${when}.${beyond}`;
  }
  const { effective } = bag.summary, top = bag.strongest("share"), share = bag.perAnchor("share", top);
  const which = top === 0 ? "the one that overlaps the object most" : `number ${top + 1} by overlap (IoU ${bag.grid("iou", top).toFixed(2)})`;
  if (effective > header.alike * bag.size) return `All ${bag.size} anchors count about alike: nothing is decided${state.moment === "end" ? "" : " yet"}.`;
  if (share > header.decided) return `One anchor has taken over with ${percent(share)}: ${which}.`;
  return `About ${few(effective)} of ${bag.size} anchors count. The strongest has ${percent(share)}: ${which}.`;
}
function whatText(bags) {
  const object = image().objects[state.object], [x1, y1, x2, y2] = object.box, { scale } = image();
  const size = `${Math.round((x2 - x1) / scale)} × ${Math.round((y2 - y1) / scale)} px`;
  const real = bags.filter((bag) => bag.side.isReal);
  const found = real.map((bag) => `${object.found[bag.side.source][bag.stage] ? "found" : "not found"} by ${bag.side.name}${lateText(bag) && " (at its end)"}`).join(", ");
  const when = state.moment === "end" ? "" : "at this stage ";
  const elsewhere = ["at the end, training gives", "at the end, the two give"][header.detectors.length - 1] ?? "at the end, two of the detectors give";
  const whom = header.detectors.length > 1 ? "to different anchors" : "to other anchors than the other side";
  const learners = shownSides().map((side, index) => learnersText(new Bag(scene.arrays, side, "end", state.object), index)).join(", ");
  return [make("b", { textContent: `${state.object + 1} ${label(object)}` }), ` · ${size}`,
    ...object.groups.flatMap((name) => [" · ", make("abbr", { textContent: name, title: header.groups[name] })]),
    " · ", make("abbr", { textContent: when + found, title: `Found: ${byId("found-means").textContent}` }),
    `. Disagreement: ${elsewhere} ${percent(object.disagreement)} of the learning ${whom} (${learners}).`];
}
const learnersText = (bag, index) => `${bag.side.name} ${index ? "" : "gives it "}to ${bag.side.kind === "hard" ? count(bag.numTaught, "anchor") : `about ${few(bag.summary.effective)} of ${bag.size}`}`;

function showScale(most) {
  const [, meaning] = METRICS[state.metric];
  const ramp = (side) => make("span", { className: "ramp", style: `background:linear-gradient(90deg, #fff, ${darker(side.colour)})` });
  const text = (value) => (state.metric === "role" || state.metric === "share" ? percent(value) : number(value));
  byId("scale").replaceChildren(
    `Darker: ${meaning}, from 0 to ${text(most)} `, ...shownSides().map(ramp),
    scene.isLinked && ["iou", "by_iou"].includes(state.metric) ? " The same for both: it does not depend on the network." : "",
    " Black frame: the object. Bars: the bag's anchors, from the highest IoU on the left to the lowest.");
}

// ---------------------------------------------------------------------------------------------- one anchor

let pickedIn = 1; // the panel that the anchor was picked in

function pickAnchor(anchor, index) {
  if (anchor === state.anchor && index === pickedIn) return;
  state.anchor = anchor;
  pickedIn = index;
  showAnchor();
}
function showAnchor() {
  const bags = bagsNow(), slider = byId("anchor");
  state.anchor = Math.min(state.anchor, bags[pickedIn].size - 1);
  slider.max = bags[pickedIn].size;
  slider.value = state.anchor + 1;
  slider.setAttribute("aria-valuetext", bags.filter((_, index) => isTold(index)).map(anchorText).join("; "));
  bags.forEach((bag, index) => showOver(bag, index));
  byId("numbers").replaceChildren(anchorTable(bags));
}
const isTold = (index) => scene.isLinked || index === pickedIn;

function anchorText(bag) {
  const a = state.anchor;
  return `${bag.side.name}: anchor ${a + 1} of ${bag.size}, IoU ${bag.grid("iou", a).toFixed(2)}, P cls ${number(bag.perAnchor("cls_prob", a))}, P loc ${number(bag.perAnchor("loc_prob", a))}, share ${percent(bag.perAnchor("share", a))}`;
}
// The picked anchor, solid, and the box predicted from it, dashed; after NMS, what is kept and what is suppressed.
function showOver(bag, index) {
  const { over, rects, spots } = scene.panels[index], { view } = scene, a = state.anchor;
  over.replaceChildren();
  rects.forEach((rect, number) => rect.setAttribute("stroke", isTold(index) && number === a ? "#0b62d6" : "none"));
  const outline = (box, colour, dash) => over.append(
    draw("rect", { ...place(view, box), fill: "none", stroke: "#fff", "stroke-width": 4, "stroke-opacity": 0.75 }),
    draw("rect", { ...place(view, box), fill: "none", stroke: colour, "stroke-width": 2, "stroke-dasharray": dash }));
  if (state.nms && bag.side.isReal) {
    const survivor = bag.nms(1), best = bag.nms(0);
    if (best && bag.perObject("fate") !== 1) outline(best.box, "#111418", "3 5");
    if (survivor) outline(survivor.box, "#00796b", null);
  }
  if (!isTold(index)) return;
  outline(bag.anchor(a), "#0b62d6", null);
  outline(bag.predicted(a), "#0b62d6", "9 6");
  over.append(draw("circle", { cx: spots[a][0], cy: spots[a][1], r: 13, fill: "none", stroke: "#0b62d6", "stroke-width": 2.4 }));
}
function anchorTable(bags) {
  const a = state.anchor, bag = bags[pickedIn], [x1, y1, x2, y2] = bag.anchor(a), { scale } = image();
  const shape = ratioText(bag.side.ratios[bag.grid("ratio", a)]);
  const about = `Anchor ${a + 1} of ${bag.size} by overlap · IoU ${bag.grid("iou", a).toFixed(3)} · level ${levelText(bag.grid("level", a))} · ${Math.round((x2 - x1) / scale)} × ${Math.round((y2 - y1) / scale)} px, ${shape}` +
    ` · the rule by hand ${bag.grid("by_iou", a) ? "assigns it" : "does not assign it"} · solid blue: anchor, dashed: its predicted box`;
  const head = ["", "P cls", "× P loc", "= x", "share", "box IoU", "learns it"];
  const rows = bags.filter((_, index) => isTold(index)).map((one) => make("tr", {},
    make("th", { scope: "row", textContent: one.side.name }),
    ...["cls_prob", "loc_prob", "confidence"].map((name) => make("td", { textContent: number(one.perAnchor(name, a)), "data-name": name })),
    make("td", { textContent: percent(one.perAnchor("share", a)), "data-name": "share" }),
    make("td", { textContent: number(one.perAnchor("box_iou", a)), "data-name": "box_iou" }),
    make("td", { textContent: one.side.kind === "hard" ? (one.perAnchor("taught", a) ? "yes" : "no") : percent(one.perAnchor("share", a)) })));
  byId("about").textContent = about;
  return make("table", {},
    make("thead", {}, make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, ...symbols(text))))), make("tbody", {}, ...rows));
}
const levelText = (level) => `P${level} (cells of ${2 ** level} px)`;
const ratioText = (ratio) => (ratio === 1 ? "square" : ratio > 1 ? `portrait, 1:${+ratio.toFixed(2)}` : `landscape, ${+(1 / ratio).toFixed(2)}:1`);

// ---------------------------------------------------------------------------------------------- after NMS

function showFates(bags) {
  byId("fates").replaceChildren(...bags.filter((bag) => bag.side.isReal).map((bag) => make("div", { className: "fate", style: `border-color:${bag.side.colour}` },
    make("h3", { textContent: bag.side.name }), ...fateTexts(bag).map((text) => make("p", text)))));
}
const boxText = ({ iou, score }) => `IoU with the object ${iou.toFixed(2)}, score ${score.toFixed(3)}`;

function fateTexts(bag) {
  const [best, survivor, suppressor] = [0, 1, 2].map((which) => bag.nms(which));
  const before = bag.perObject("num_before"), after = bag.perObject("num_after"), fate = bag.perObject("fate");
  const own = image().objects[state.object];
  if (!fate) return [{ textContent: `No box of class “${label(own)}” overlaps the object by half: it is lost before NMS.` }];
  const left = `${count(before, "box", "boxes")} of its class on the object (IoU 0.5 or more) before NMS, ${after} after.`;
  const from = (one) => (one.anchor >= 0 ? `, from anchor ${one.anchor + 1} of the bag` : "");
  // The anchor that has most to say in Mean-max need not be the one whose box is left.
  const top = bag.strongest("share"), differs = bag.side.kind !== "hard" && survivor && survivor.anchor !== top;
  const byScore = differs ? [{ textContent: `NMS goes by class score alone: the box that is left is not that of anchor ${top + 1}, which has the largest share (${percent(bag.perAnchor("share", top))}).` }] : [];
  if (fate === 1) return [{ textContent: `${left} The best-placed box is kept: ${boxText(best)}${from(best)}.` }, { textContent: "NMS costs nothing here.", className: "loss" }, ...byScore];
  const isSame = survivor && suppressor && [...survivor.box, survivor.score].join() === [...suppressor.box, suppressor.score].join();
  const cost = survivor && (best.iou.toFixed(2) - survivor.iou.toFixed(2)).toFixed(2); // of the numbers shown
  const kept = survivor && (isSame ? "That box is what is left." : `What is left is another box: ${boxText(survivor)}${from(survivor)}.`);
  const lost = survivor ? `${kept} ${fate === 3 ? "The limit" : "NMS"} cost ${+cost ? cost : "less than 0.01"} of IoU.` : "No box is left on the object.";
  if (fate === 3) return [{ textContent: `${left} The best-placed box (${boxText(best)}) is beyond the limit of detections.` }, { textContent: lost, className: "loss" }, ...byScore];
  const owner = bag.perObject("owner");
  const whose = owner === state.object ? "" : owner < 0 ? " that meets no object of the class" : ` that overlaps a neighbour more, object ${owner + 1}`;
  const isOff = suppressor.iou < 0.5 ? " With less than 0.5 that box is not on this object." : "";
  return [
    { textContent: `${left} The best-placed box (${boxText(best)}${from(best)}) is suppressed by a box with a higher score${whose}: ${boxText(suppressor)}${from(suppressor)}.${isOff}` },
    { textContent: lost, className: "loss" }, ...byScore,
  ];
}

// ---------------------------------------------------------------------------------------------- Eq. 7

function showEquations(bags) {
  byId("equations").replaceChildren(...bags.filter((bag) => bag.side.isReal).map(equation));
}
function equation(bag) {
  const { meanMax, mean, max } = bag.summary;
  const sorted = Array.from({ length: bag.size }, (_, a) => bag.perAnchor("confidence", a)).sort((a, b) => b - a);
  const rest = () => (bag.size > 2 ? [math("mo", "+"), math("mtext", `… ${bag.size - 2} more`)] : []);
  const n = (text) => math("mn", text), o = (text) => math("mo", text);
  const large = (...parts) => fill(math("mstyle", ...parts), { displaystyle: "true", scriptlevel: "0" }, []);
  const odds = (top) => (x) => large(math("mfrac", math("mn", top ? number(x) : "1"), math("mrow", n("1"), o("−"), n(number(x)))));
  const terms = (top) => math("mrow", odds(top)(sorted[0]), ...(sorted.length > 1 ? [o("+"), odds(top)(sorted[1])] : []), ...rest());
  // Three pieces, so that the line may break before either sign: browsers break no line in a formula.
  const formula = [[math("mtext", "Mean-max"), o("=")], [large(math("mfrac", terms(true), terms(false)))], [o("="), n(number(meanMax))]].map((piece) => math("math", ...piece));
  const way = max - mean > 1e-3 ? `${percent(Math.max(0, (meanMax - mean) / (max - mean)))} of the way from the mean to the max` : "mean and max are the same";
  const role = bag.side.kind === "hard" ? `${bag.side.name} is not trained by it; this is what the rule would see.` : `The loss of this object is −log ${number(meanMax)} = ${(-Math.log(Math.max(meanMax, 1e-38))).toFixed(2)}.`;
  return make("div", { className: "equation" }, make("h3", { textContent: bag.side.name }),
    make("div", { className: "sum", tabindex: 0, role: "group", "aria-label": `Mean-max of this bag: ${number(meanMax)}` }, ...formula), ruler(mean, meanMax, max, bag.side),
    make("p", { textContent: `Mean ${number(mean)}, Mean-max ${number(meanMax)}, max ${number(max)}: ${way}. ${role}`, "data-mean-max": meanMax }));
}
// A line from 0 to 1 with the mean, Mean-max and the max on it.
function ruler(mean, meanMax, max, side) {
  const at = (x) => 20 + 400 * x;
  return draw("svg", { class: "line", viewBox: "0 0 440 62", "aria-hidden": "true" },
    draw("path", { d: "M20 34H420M20 30V38M420 30V38" }),
    draw("path", { d: `M${at(mean)} 27V41M${at(max)} 27V41`, style: "stroke-width:3" }),
    draw("path", { d: `M${at(mean)} 34H${at(meanMax)}`, style: `stroke:${side.colour};stroke-width:5` }),
    draw("circle", { cx: at(meanMax), cy: 34, r: 7, fill: side.colour, stroke: "#fff", "stroke-width": 1.5 }),
    draw("text", { x: at(meanMax), y: 18, "text-anchor": meanMax > 0.85 ? "end" : meanMax < 0.1 ? "start" : "middle", "font-weight": 600 }, "Mean-max"),
    draw("text", { class: "soft", x: at(mean), y: 57, "text-anchor": mean < 0.06 ? "start" : "end" }, "mean"),
    draw("text", { class: "soft", x: at(max) + (max - mean < 0.12 ? 40 : 0), y: 57, "text-anchor": max > 0.94 ? "end" : "start" }, "max"));
}

// ---------------------------------------------------------------------------------------------- all of it, and events

async function showAll() {
  const asked = state.image, arrays = await block(asked);
  if (asked !== state.image) return; // another image was picked meanwhile
  showObjects();
  showMap();
  buildPanels(arrays);
  showLevels();
  showMoment();
}
function showMoment() {
  byId("time").value = moments.indexOf(state.moment);
  byId("time").setAttribute("aria-valuetext", momentText(state.moment));
  byId("moment").textContent = momentText(state.moment);
  showPanels();
  writeHash();
}
function pickImage(next) {
  const entry = listed().find((one) => one.place === next) ?? { place: next, objects: header.images[next].objects.map((_, i) => i) };
  state.image = next;
  pickObject(firstObject(entry));
  mark(byId("film"), next);
  byId("film").querySelector('[aria-checked="true"]')?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
async function pickObject(next) {
  state.object = next;
  await showAll();
  pickStrongest();
}
function pickStrongest() {
  const bags = bagsNow(), soft = bags.findIndex((bag) => bag.side.kind !== "hard");
  pickedIn = soft < 0 ? 0 : soft;
  state.anchor = bags[pickedIn].strongest(state.metric);
  showAnchor();
}
function pickFilter() {
  showFilm();
  const entries = listed(), here = entries.find((one) => one.place === state.image);
  if (!entries.length) showAll();
  else if (!here || !here.objects.includes(state.object) || state.sort !== "drawn") pickImage((here && state.sort === "drawn" ? here : entries[0]).place);
  else showAll();
}
function showChoices() {
  const options = (pairs) => pairs.map(([value, text]) => make("option", { value, textContent: text }));
  byId("filter").replaceChildren(...options(filters()));
  byId("sort").replaceChildren(...options(sorts()));
  byId("filter").value = state.filter;
  byId("filter").title = `Found, at the end of training: ${byId("found-means").textContent}`;
  byId("sort").value = state.sort;
}
function showPills(id, pairs, name) {
  const group = byId(id), legend = group.firstElementChild;
  group.replaceChildren(legend, ...pairs.map(([value, text, meaning]) => make("label", { title: meaning },
    make("input", { type: "radio", name, value, checked: state[name] === value }), make("span", {}, ...symbols(text)))));
  group.addEventListener("change", (event) => {
    state[name] = event.target.value;
    buildPanels(scene.arrays);
    showMoment();
  });
}
// Levels and shapes that the bags in view have.
function showLevels() {
  for (const [name, text] of [["level", (bag, value) => levelText(value)], ["ratio", (bag, value) => ratioText(bag.side.ratios[value])]]) {
    const known = new Map();
    for (const bag of bagsNow()) for (let a = 0; a < bag.size; a++) known.set(bag.grid(name, a), text(bag, bag.grid(name, a)));
    const select = byId(name);
    if (state[name] !== "all" && !known.has(+state[name])) state[name] = "all";
    select.replaceChildren(make("option", { value: "all", textContent: "all" }),
      ...[...known].sort((a, b) => a[0] - b[0]).map(([value, words]) => make("option", { value, textContent: words })));
    select.value = state[name];
  }
}

// The image of the last detector, scrolled to where it is off the screen; smoothly where the reader's settings allow it.
function bringPanel() {
  scene.panels.findLast((panel, index) => shownSides()[index].isReal).svg.scrollIntoView({ block: "nearest" });
}

let timer = 0;
function play() {
  if (timer) return stop();
  if (state.moment === moments.at(-1)) state.moment = moments[0];
  showMoment();
  sayPlaying(true);
  timer = setInterval(() => {
    state.moment = moments[Math.min(moments.length - 1, moments.indexOf(state.moment) + 1)];
    showMoment();
    if (state.moment === moments.at(-1)) stop();
  }, 1000);
}
function stop() {
  clearInterval(timer);
  timer = 0;
  sayPlaying(false);
}
function sayPlaying(isPlaying) {
  for (const button of document.querySelectorAll("[data-play]")) button.textContent = isPlaying ? "❚❚ Pause" : "▶ Play";
}
function moveMoment(by) {
  stop();
  state.moment = moments[Math.min(moments.length - 1, Math.max(0, moments.indexOf(state.moment) + by))];
  showMoment();
}
function moveObject(by) {
  const own = image().objects, shown = own.map((_, index) => index).filter((index) => passes(own[index]));
  const at = shown.indexOf(state.object), next = shown[(at + by + shown.length) % shown.length];
  if (next !== undefined) pickObject(next);
}
function moveImage(by) {
  const entries = listed(), at = entries.findIndex((one) => one.place === state.image);
  const next = entries[(at + by + entries.length) % entries.length];
  if (next) pickImage(next.place);
}

function start() {
  readHash();
  showChoices();
  showPills("metrics", Object.entries(METRICS).map(([value, [text, meaning]]) => [value, text, meaning]), "metric");
  showPills("marks", [["dots", "dots", "each anchor's centre"], ["boxes", "boxes", "each anchor's box"]], "marks");
  byId("nms").checked = state.nms;
  byId("tools").open = state.metric !== "role" || state.marks !== "dots" || state.level !== "all" || state.ratio !== "all";
  byId("time").max = moments.length - 1;
  if (moments.length < 2) for (const one of document.querySelectorAll(".time > :not(h2), .try")) one.hidden = true;
  for (const one of document.querySelectorAll(".bag-size")) one.textContent = Math.max(...header.detectors.map((it) => it.bagSize));
  byId("origin").textContent = originText();
  byId("ends").textContent = endsText();
  byId("survive").textContent = surviveText();
  const events = {
    filter: ["change", () => { state.filter = byId("filter").value; pickFilter(); }],
    sort: ["change", () => { state.sort = byId("sort").value; pickFilter(); }],
    level: ["change", () => { state.level = byId("level").value; showMoment(); }],
    ratio: ["change", () => { state.ratio = byId("ratio").value; showMoment(); }],
    nms: ["change", () => { state.nms = byId("nms").checked; showMoment(); if (state.nms) bringPanel(); }],
    time: ["input", () => { stop(); state.moment = moments[+byId("time").value]; showMoment(); }],
    anchor: ["input", () => { state.anchor = +byId("anchor").value - 1; showAnchor(); }],
    strongest: ["click", pickStrongest],
    map: ["click", (event) => pickObject(objectAt(event))],
  };
  for (const [id, [name, act]] of Object.entries(events)) byId(id).addEventListener(name, act);
  for (const button of document.querySelectorAll("[data-play]")) button.addEventListener("click", play);
  byId("try").addEventListener("click", bringPanel); // after its texts are those of the first stage
  roving(byId("film"), pickImage);
  roving(byId("objects"), pickObject);
  const keys = { p: play, ",": () => moveMoment(-1), ".": () => moveMoment(1), "[": () => moveObject(-1), "]": () => moveObject(1), "{": () => moveImage(-1), "}": () => moveImage(1) };
  addEventListener("keydown", (event) => {
    if (event.key in keys && !event.ctrlKey && !event.metaKey && !event.altKey && event.target.tagName !== "SELECT") keys[event.key]();
  });
  addEventListener("hashchange", () => { readHash(); showChoices(); showFilm(); showAll().then(pickStrongest); });
  if (!header.images.some((one) => location.hash.includes(`image=${one.id}`))) [state.image, state.object] = header.first;
  showFilm();
  showAll().then(() => {
    pickStrongest();
    mark(byId("film"), state.image);
    performance.mark("explorer-drawn");
  });
}
// How many objects' bags have decided at the end: by the words of `claimText`.
function endsText() {
  const total = header.images.reduce((sum, one) => sum + one.objects.length, 0);
  const soft = header.detectors.filter((one) => one.kind !== "hard").map(({ name, ends, bagSize }) =>
    `${name} gives one anchor more than half of the share for ${ends.decided || "none"}; for ${ends.alike} all ${bagSize} anchors count about alike`);
  return `${soft.length ? `Of the ${count(total, "object")} here, at the end of training, ${soft.join(". ")}. ` : ""}The page opens with the most decided of those found.`;
}
function surviveText() {
  const each = header.detectors.map(({ name, ends }) => `${ends.kept} of the ${ends.found} that ${name} finds`);
  return `At the end of training, the best-placed box survives NMS for ${each.join(" and ")}.`;
}
function originText() {
  const runs = header.detectors.map((one) => `${one.name} (${one.run}, ${count(one.steps.length, "stage")})`).join(" and ");
  const refused = header.refused ? ` ${count(header.refused, "image")} left out, whose licence forbids derivatives.` : "";
  return `${header.title}: ${count(header.images.length, "image")}, half of them drawn at random with seed ${header.seed}, the others for their slender, crowded or acentric objects. Asked were ${runs}.${refused}`;
}
if (typeof DecompressionStream === "undefined") byId("what").textContent = "This browser is too old for this page: it needs DecompressionStream (2023 or later).";
else start();
