import { get, guarded, post } from "./api.js";
import { at, el, fill, number, path, percent, toast } from "./dom.js";

const { project, access } = at("main").dataset;
const url = `/api/projects/${path(project)}`;

function rate(value) {
  if (!value) return el("td", {}, "–");
  const told = el("small", {}, `${percent(value.low)} to ${percent(value.high)}${value.n ? `, n ${value.n}` : ""}`);
  return el("td", {}, percent(value.value), told);
}

const figure = (name, found, show = percent) => el("div", {}, el("b", {}, found ? show(found.value) : "–"),
  el("span", { class: "note" }, found ? `${name} (${show(found.low)} to ${show(found.high)})` : name));
const plainNumber = (v) => number(v, 2);

function people(rows) {
  const heads = ["Person", "Labels", "Share", "Seconds", "Hasty", "Test items", "Self", "With others", "First", "Longer", "Reliability", "Weight", "Accuracy"];
  fill(at("people").tHead, el("tr", {}, heads.map((h) => el("th", { scope: "col" }, h))));
  fill(at("people").tBodies[0], rows.map((p) => el("tr", {}, el("th", { scope: "row" }, p.name), el("td", {}, String(p.labels)),
    el("td", { class: p.watched ? "warn" : "" }, percent(p.share)), el("td", {}, number(p.seconds)), el("td", {}, percent(p.hasty)),
    rate(p.gold), rate(p.self), rate(p.with_others), rate(p.first_shown), rate(p.longer), el("td", {}, percent(p.reliability)), el("td", {}, number(p.weight, 2)), rate(p.discernment?.accuracy))));
}

const spread = (v) => v && v.value !== null ? `${number(v.value, 2)} (${number(v.low, 2)} to ${number(v.high, 2)})` : "–";
function groups(found, pairs) {
  const told = [];
  if (pairs.length) told.push(el("h2", {}, "Two by two"), el("ul", {}, pairs.map((p) => el("li", {}, `${p.people.join(" and ")}: Cohen's kappa ${spread(p)}, ${p.items} items`))));
  if (!found) return told;
  told.push(el("h2", {}, "Whose taste"), el("ul", {}, found.groups.map((g) => el("li", {}, `${g.group}: ${g.people} people, ${percent(g.share)} of labels; alpha within ${spread(g.alpha)}; with everyone's majority ${g.with_all ? `${percent(g.with_all.value)} of ${g.with_all.n}` : "–"}`))),
    el("p", {}, `Groups have different majorities on ${found.contested_items} of ${found.shared_items} shared items; within a group people agree more often by ${spread(found.gap)}.`));
  return told;
}

// Categories are kept in the item's own order, not in one that was shown.
const SAID = { 0: "the first", 1: "the second", tie: "equal", True: "good", False: "bad" };
const said = (category) => SAID[category] ?? category;

function disputes(rows) {
  if (!rows.length) return el("p", { class: "note" }, "Nothing is disputed.");
  return el("ul", {}, rows.slice(0, 100).map((d) => el("li", {}, `${d.name || `item ${d.item}`}: ${Object.entries(d.said).map(([c, n]) => `${said(c)} × ${n}`).join(", ")} `,
    el("a", { href: `/label/${path(project)}?decide=${d.item}` }, "Decide"))));
}

const EDITABLE = {
  question: "Question (the kind's own where empty)", overlap: "People per item", gold_share: "Share of test items", repeat_share: "Share of repeated items",
  minimum_seconds: "Least seconds per answer", lease_seconds: "Seconds an item waits for its person", cap_share: "Most of all labels by one person (share)", suggestions: "What AIs said is shown",
};
const CHOICES = { suggestions: [["never", "never"], ["after", "once a person has answered"], ["before", "at once"]] };
const input = (name, value) => CHOICES[name]
  ? el("select", { name }, CHOICES[name].map(([v, told]) => el("option", { value: v, selected: v === value }, told)))
  : el("input", { name, value: value === null ? "" : String(value), autocomplete: "off", inputmode: name === "question" ? "text" : "decimal" });
function settings(values) {
  const form = at("settings");
  if (!form) return;
  fill(form, Object.entries(EDITABLE).map(([name, told]) => el("label", {}, told, input(name, values[name]))), el("p", { class: "wide" }, el("button", {}, "Save")));
}

async function show() {
  const told = await get(`${url}/quality`);
  const a = told.agreement;
  fill(at("agreement"), el("div", { class: "figures" }, figure("raw agreement", a.raw), figure("Krippendorff's alpha", a.alpha, plainNumber),
    figure(a.fleiss ? `Fleiss' kappa, ${a.fleiss.items} items of ${a.fleiss.ratings} labels` : "Fleiss' kappa", a.fleiss, plainNumber),
    figure("Cohen's kappa, mean over pairs of people", a.cohen, plainNumber),
    el("div", {}, el("b", {}, String(told.labels)), el("span", { class: "note" }, `labels of ${told.items} items by ${a.raters} people; ${a.items} items with several`))));
  people(told.people);
  fill(at("groups"), groups(told.groups, a.pairs));
  fill(at("judges"), told.judges.length ? [el("h2", {}, "AI judges"), el("ul", {}, told.judges.map((j) => el("li", {}, `${j.name} (${j.model}): ${j.items} items; with most people ${j.with_people ? `${percent(j.with_people.value)} (${percent(j.with_people.low)} to ${percent(j.with_people.high)}, n ${j.with_people.n})` : "–"}`)))] : []);
  fill(at("disputed"), disputes(told.disputed));
  fill(at("flags"), told.flags.length ? el("ul", {}, told.flags.map((f) => el("li", {}, `${f.name || `item ${f.item}`}: ${f.reason} (${f.by})`))) : el("p", { class: "note" }, "Nothing is flagged."));
  if (access === "admin" && !document.activeElement?.closest("#settings, #guideline")) {
    settings(told.settings);
    if (told.guideline && !at("guideline").elements.text.value) at("guideline").elements.text.value = told.guideline.text;
  }
}

at("export").addEventListener("submit", guarded(async (event) => {
  const own = event.target.elements;
  const made = await post(`${url}/export`, { file: own.file.value, weighted: own.weighted.checked, names: own.names.checked, everything: own.everything.checked });
  fill(at("exported"), `${made.labels} labels in `, el("a", { href: `/api/data/${encodeURIComponent(made.file)}`, download: made.file }, made.file), ` (${made.sha256.slice(0, 12)})`);
}));
at("guideline")?.addEventListener("submit", guarded(async (event) => {
  const made = await post(`${url}/guideline`, { text: event.target.elements.text.value });
  toast(`Version ${made.version} is in force.`);
}));
at("settings")?.addEventListener("submit", guarded(async (event) => {
  const values = {};
  for (const name of Object.keys(EDITABLE)) {
    const text = event.target.elements[name].value.trim();
    values[name] = text === "" && name === "cap_share" ? null : text;
  }
  await post(`${url}/settings`, { values });
  toast("Saved.");
}));

guarded(show)();
setInterval(guarded(show), 10000);
