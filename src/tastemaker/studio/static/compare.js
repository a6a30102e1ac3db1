// Compare: answers of several models grow side by side; a vote is a preference record.
import { get, guarded, insist, key } from "./api.js";
import { at, el, fill, path, toast } from "./dom.js";
import { content } from "./markdown.js";
import { letters } from "./questions.js";

const form = at("ask");
let prompts = [];
let current = null;
let started = 0;

async function offer() {
  const { models, data } = await get("/api/training");
  const named = new URLSearchParams(location.search).getAll("model");
  const boxes = models.filter((m) => m !== "tiny").map((name) =>
    el("label", { class: "choice" }, el("input", { type: "checkbox", name: "model", value: name, checked: named.includes(name) }), name));
  fill(at("models"), boxes.length ? boxes : el("p", { class: "note" }, "No finished runs yet. Train one, or name models: tastemaker studio --models ..."));
  const projects = await get("/api/projects");
  const group = (label, where, names) => (names.length ? [el("optgroup", { label }, names.map((n) => el("option", { value: `/api/${where}/${path(n)}/prompts` }, n)))] : []);
  at("set").append(...group("projects", "projects", projects.filter((p) => p.progress.items).map((p) => p.name)), ...group("files of data", "data", data));
}

at("set").addEventListener("change", guarded(async () => {
  const from = at("set").value;
  at("other").hidden = !from;
  prompts = from ? (await get(from)).prompts : [];
  if (prompts.length) another();
}));
function another() {
  current = prompts[Math.floor(Math.random() * prompts.length)];
  at("prompt").value = typeof current === "string" ? current : current.map((t) => t.content).join("\n\n");
}
at("other").addEventListener("click", another);
at("prompt").addEventListener("input", () => { current = null; });

function asked() {
  const own = form.elements;
  const models = [...form.querySelectorAll("[name=model]:checked")].map((box) => box.value);
  if (!models.length) throw new Error("Choose at least one model.");
  const turns = Array.isArray(current) ? current.filter((t) => ["user", "assistant", "system"].includes(t.role)) : [{ role: "user", content: at("prompt").value }];
  return {
    prompt: turns,
    plain: own.plain.checked || typeof current === "string",
    models,
    blind: own.blind.checked,
    temperature: Number(own.temperature.value),
    top_p: Number(own.top_p.value),
    top_k: Number(own.top_k.value),
    max_new_tokens: Number(own.max_new_tokens.value),
    seed: own.seed.value === "" ? null : Number(own.seed.value),
  };
}

form.addEventListener("submit", guarded(async () => {
  const body = asked();
  const cards = body.models.map((_, k) => {
    const box = el("div");
    const head = el("span", { class: "note" }, "writing ...");
    return { box, head, name: el("span", {}, letters[k]), text: "", card: null };
  });
  cards.forEach((c) => { c.card = el("article", { class: "response" }, el("p", { class: "head" }, c.name, c.head), c.box); });
  fill(at("answers"), cards.map((c) => c.card));
  at("votes").hidden = true;
  at("named").textContent = "";
  const response = await fetch("/api/compare/answers", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!response.ok) throw new Error((await response.json()).error);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) break;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) take(JSON.parse(line), cards);
  }
}));

function take(line, cards) {
  const card = cards[line.side];
  if ("text" in line) {
    card.text = line.text;
    fill(card.box, content(line.text));
  } else if (line.done) card.head.textContent = line.cut ? "cut at the limit" : "";
  else if (line.error) { card.head.textContent = "failed"; toast(line.error); }
  else if (line.names) line.names.forEach((name, k) => { cards[k].name.textContent = `${letters[k]}: ${name}`; });
  else if (line.vote) offerVote(line.vote, cards);
}

function offerVote(assignment, cards) {
  started = performance.now();
  const n = cards.length;
  const best = (k) => cards.map((_, i) => (i === k ? 0 : 1));
  const options = [...cards.map((_, k) => [`${letters[k]} is best`, best(k), String(k + 1)]), ["Equally good", new Array(n).fill(0), "0"]];
  const chosen = { key: key() };
  const vote = guarded(async (ranking) => {
    at("votes").hidden = true;
    const told = await insist("/api/compare/votes", { assignment, key: chosen.key, ranking, seconds: (performance.now() - started) / 1000 }, () => toast("Not sent yet; trying again ..."));
    told.names.forEach((name, k) => { cards[k].name.textContent = `${letters[k]}: ${name}`; cards[k].card.classList.toggle("chosen", told.ranking[k] === 0 && told.ranking.some((r) => r)); });
    at("named").textContent = `Your vote is label ${told.judgement} of the project comparisons.`;
  });
  fill(at("votes"), options.map(([label, ranking, k]) => el("button", { type: "button", onclick: () => vote(ranking) }, label, el("kbd", {}, k))));
  at("votes").hidden = false;
  at("votes").querySelector("button").focus();
}

document.addEventListener("keydown", (event) => {
  if (at("votes").hidden || event.target.matches("textarea, input, select") || event.ctrlKey || event.altKey) return;
  const buttons = [...at("votes").querySelectorAll("button")];
  const place = event.key === "0" ? buttons.length - 1 : Number(event.key) - 1;
  if (buttons[place]) { event.preventDefault(); buttons[place].click(); }
});

guarded(offer)();
