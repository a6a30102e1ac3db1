import { get, guarded } from "./api.js";
import { at, el, fill, path } from "./dom.js";
import { content } from "./markdown.js";

let all = [];
const row = (run) => el("tr", {},
  el("th", { scope: "row" }, el("a", { href: `/runs/${path(run.name)}` }, run.name)),
  [run.method, run.status, String(run.steps), run.data.join(", "), run.created.slice(0, 16).replace("T", " ")].map((text) => el("td", {}, text)));

function show() {
  const wanted = at("filter").value.toLowerCase();
  const found = all.filter((r) => `${r.name} ${r.method} ${r.status} ${r.data.join(" ")}`.toLowerCase().includes(wanted));
  const body = at("runs").tBodies[0];
  fill(body, found.length ? found.map(row) : el("tr", {}, el("td", { colspan: "6" }, "No runs.")));
  at("runs").removeAttribute("aria-busy");
}

async function load() {
  const { runs, reports } = await get("/api/runs");
  all = runs;
  show();
  const link = (name) => el("li", {}, el("a", { href: `/runs/${path(name)}` }, name));
  fill(at("reports"), reports.length ? [el("h2", {}, "Reports"), el("ul", {}, reports.map((r) => el("li", {}, el("a", { href: `/reports/${path(r.name)}` }, r.name),
    el("details", {}, el("summary", {}, `of ${r.runs.length} ${r.runs.length === 1 ? "run" : "runs"}`), el("ul", {}, r.runs.map(link))))))] : []);
}

const shortened = (value) => (value && Object.keys(value).length ? Object.entries(value).map(([k, v]) => `${k} ${JSON.stringify(v)}`).join(", ") : "nothing");

// One label: what it was given on, what it says, and every run it shaped.
async function trace(id) {
  const told = await get(`/api/labels/${id}`);
  const sides = told.responses.map((text, k) => el("article", { class: told.ranking && told.ranking[k] === 0 && told.ranking.some((r) => r) ? "response chosen" : "response" },
    el("p", { class: "head" }, told.ranking ? `Rank ${told.ranking[k] + 1}` : `Response ${k + 1}`, told.origins[k] ? el("span", { class: "note" }, told.origins[k]) : null), content(text)));
  const exports = told.exports.length ? `In ${told.exports.map((e) => `${e.path} (${e.sha256})`).join(", ")}.` : "In no export.";
  fill(at("traced"), el("section", { class: "panel open" }, el("h2", {}, `Label ${told.id}`),
    el("p", { class: "note" }, `By ${told.by}, ${told.status} ${told.at.slice(0, 16).replace("T", " ")}, in `, el("a", { href: `/project/${path(told.project)}` }, told.project), `: ${shortened(told.answer)}. ${exports}`),
    told.prompt === "" ? null : el("div", { class: "asked" }, content(told.prompt)), el("div", { class: "responses" }, sides),
    el("h2", {}, "Runs that it shaped"),
    told.runs.length ? el("ul", {}, told.runs.map((r) => el("li", {}, el("a", { href: `/runs/${path(r.name)}` }, r.name), ` (${r.method})`))) : el("p", {}, "None: no run below this folder was trained on a file that holds it.")));
}

at("filter").addEventListener("input", show);
at("find").addEventListener("submit", guarded(async (event) => trace(Number(event.target.elements.label.value))));
const wanted = new URLSearchParams(location.search).get("label");
if (/^\d+$/.test(wanted ?? "")) {
  at("find").elements.label.value = wanted;
  guarded(() => trace(Number(wanted)))();
}
guarded(load)();
