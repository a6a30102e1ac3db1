import { charts } from "./chart.js";
import { get, guarded } from "./api.js";
import { at, el, fill, number, path } from "./dom.js";
import { content } from "./markdown.js";

const name = at("main").dataset.run;

function source(data) {
  const held = data.labels;
  const title = `data: ${data.source} (${data.rows} rows, ${data.sha256})`;
  if (!held) return el("li", {}, title);
  const people = Object.entries(held.by).map(([who, n]) => `${who} ${n}`).join(", ");
  return el("li", {}, title, el("ul", {}, el("li", {}, el("a", { href: `/project/${path(held.project)}` }, `${held.labels} labels of ${held.project}`),
    ` by ${people}`, el("details", {}, el("summary", {}, "single labels"), held.first.flatMap((id) => [el("a", { href: `/runs?label=${id}` }, String(id)), " "]), held.labels > held.first.length ? "..." : null))));
}

function node(n) {
  const title = n.is_run ? el("a", { href: `/runs/${path(n.name)}` }, n.name) : n.name;
  const told = [n.method, n.status, n.weights].filter(Boolean).join(", ");
  return el("li", {}, n.role ? `${n.role}: ` : "", title, told ? ` (${told})` : "", n.problem ? el("span", { class: "warn" }, ` ${n.problem}`) : null,
    n.data.length + n.parents.length ? el("ul", {}, n.data.map(source), n.parents.map(node)) : null);
}

function sample(line) {
  const skipped = ["prompt", "response"];
  const rest = Object.entries(line).filter(([k]) => !skipped.includes(k)).map(([k, v]) => `${k} ${number(v)}`).join(", ");
  return el("article", { class: "response" }, el("p", { class: "note" }, rest),
    "prompt" in line ? el("div", { class: "turn" }, content(String(line.prompt), true)) : null,
    "response" in line ? content(String(line.response), true) : null);
}

async function show() {
  const run = await get(`/api/run/${path(name)}`);
  at("state").textContent = `${run.method}, ${run.status}${run.reason ? `: ${run.reason}` : ""}; ${run.steps} steps; made ${run.created.slice(0, 16).replace("T", " ")}; weights ${(run.weights ?? "none yet").slice(0, 12)}`;
  const drawn = charts(run.curves);
  fill(at("curves"), drawn.length ? drawn : el("p", { class: "note" }, "Nothing was logged more than once."));
  const told = run.reports.flatMap((r) => [" ", el("a", { href: `/reports/${path(r)}` }, r)]);
  fill(at("lineage"), told.length ? el("p", {}, "Reports that speak of it:", told) : null, el("ul", { class: "tree" }, node(run.lineage)),
    run.status === "finished" && !run.method.includes("reward") ? el("p", {}, el("a", { href: `/compare?model=${encodeURIComponent(name)}` }, "Compare it with others")) : null);
  fill(at("samples"), run.samples.length ? el("div", { class: "responses" }, run.samples.map(sample)) : el("p", { class: "note" }, "None were kept (setting num_samples)."));
  const rows = [["command", run.command], ["seed", run.seed], ...Object.entries(run.settings)];
  fill(at("settings").tBodies[0], rows.map(([k, v]) => el("tr", {}, el("th", { scope: "row" }, k), el("td", {}, typeof v === "object" ? JSON.stringify(v) : String(v)))));
  if (run.status === "running") setTimeout(guarded(show), 3000);
}
guarded(show)();
