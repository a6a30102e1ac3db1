// Small line charts as SVG nodes.
import { el, number } from "./dom.js";

const NS = "http://www.w3.org/2000/svg";
const svg = (tag, attributes, text) => {
  const made = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
};
const W = 280;
const H = 120;

export function chart(name, points) {
  const xs = points.map((p) => p[0]);
  const ys = points.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const x = (v) => 4 + ((W - 8) * (v - x0)) / (x1 - x0 || 1);
  const y = (v) => H - 16 - ((H - 30) * (v - y0)) / (y1 - y0 || 1);
  const last = points[points.length - 1];
  const drawing = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `${name}: ${number(ys[0])} at step ${xs[0]} to ${number(last[1])} at step ${last[0]}` });
  drawing.append(
    svg("line", { class: "axis-line", x1: 4, x2: W - 4, y1: H - 16, y2: H - 16 }),
    svg("polyline", { class: "line", points: points.map((p) => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(" ") }),
    svg("text", { x: 4, y: 10 }, number(y1)),
    svg("text", { x: 4, y: H - 20 }, y0 === y1 ? "" : number(y0)),
    svg("text", { x: 4, y: H - 4 }, `${x0}`),
    svg("text", { x: W - 4, y: H - 4, "text-anchor": "end" }, `step ${x1}`));
  return el("figure", { class: "chart" }, el("figcaption", {}, el("span", {}, name), el("b", {}, number(last[1]))), drawing);
}

const FIRST = ["loss", "eval_loss", "rewards/margins", "rewards/accuracies", "accuracy", "reward", "kl"];

export function charts(curves) {
  const order = (name) => { const i = FIRST.indexOf(name); return i < 0 ? FIRST.length : i; };
  return Object.entries(curves)
    .filter(([, points]) => points.length > 1)
    .sort(([a], [b]) => order(a) - order(b) || a.localeCompare(b))
    .map(([name, points]) => chart(name, points));
}
