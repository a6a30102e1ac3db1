// The label page: shows what the studio lends, takes an answer, never loses one.
import { Failed, get, guarded, insist, key, post } from "./api.js";
import { at, el, fill, path, toast } from "./dom.js";
import { content } from "./markdown.js";
import { asks, letters, widgets } from "./questions.js";

const project = at("main").dataset.project;
let given = null;
let widget = null;
let plain = false;
let shownAt = 0;
let away = 0;
let hiddenAt = null;
let saving;
let busy = false;
let history = [];
let place = -1;

document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenAt = performance.now();
  else if (hiddenAt !== null) { away += performance.now() - hiddenAt; hiddenAt = null; }
});
const seconds = () => Math.max(0, (performance.now() - shownAt - away) / 1000);

function progress({ mine, open, items }) {
  const done = items - open;
  Object.assign(at("progress"), { max: Math.max(1, items), value: done });
  at("told").textContent = `${done} of ${items} items done, ${mine} by you`;
}

// Choices stay in sight beside the buttons; what one writes in is as long as it is.
const LONG = ["text", "spans", "ranking"];

function draw(answer) {
  const spot = { responses: at("responses"), form: at("answer"), changed };
  fill(at("prompt"), given.prompt === "" ? [] : content(given.prompt, plain));
  at("question").textContent = asks(given);
  widget = widgets[given.kind](given, spot, plain, answer);
  at("foot").classList.toggle("long", LONG.includes(given.kind));
  at("item").removeAttribute("aria-busy");
}

function show(next) {
  given = next;
  progress(next.progress);
  for (const id of ["foot", "commented", "raw"]) at(id).hidden = Boolean(next.done);
  tellSuggestions(next.suggestions ?? []);
  if (next.done) {
    widget = null;
    fill(at("prompt"));
    at("question").textContent = next.told;
    fill(at("responses"), el("p", {}, el("a", { href: "/" }, "All projects")));
    at("item").removeAttribute("aria-busy");
    at("question").focus();
    return;
  }
  at("comment").value = next.said?.answer?.comment ?? "";
  const said = next.said && next.said.status !== "skipped" ? next.said.answer : null;
  draw(said);
  shownAt = performance.now();
  away = 0;
  window.scrollTo(0, 0);
  at("question").focus({ preventScroll: true });
}

function words(answer) {
  if ("preferred" in answer) return `${letters[answer.preferred]} is better`;
  if ("level" in answer) return `${answer.level > 0 ? "A" : "B"} is ${Math.abs(answer.level) > 1 ? "much" : "a little"} better`;
  if ("tie" in answer) return answer.tie === "equal" ? "equally good" : "both bad";
  if ("desirable" in answer) return answer.desirable ? "good" : "bad";
  if ("ranking" in answer) return answer.ranking.map((r, k) => [r, letters[k]]).sort((a, b) => a[0] - b[0]).map(([r, k]) => `${r + 1}. ${k}`).join(", ");
  return JSON.stringify(answer);
}

// What AIs said of this item, or of the one before it (`mine`: the answer given to that). Stays until the next.
function tellSuggestions(hints, mine = null) {
  at("hints").hidden = !hints.length;
  fill(at("hints"), hints.map((hint) => el("span", {},
    el("b", {}, "AI"), ` ${hint.model}${hint.principle ? ` (${hint.principle})` : ""}${mine ? " on the item before" : " suggests"}: ${words(hint.answer)}`,
    mine ? `; you: ${words(mine)}. ` : ". ")));
}

const answer = () => {
  const made = widget.answer();
  const comment = at("comment").value.trim();
  return made === null ? null : comment ? { ...made, comment } : made;
};

// What is half done is kept after a moment's rest, so that a reload finds it again.
function changed() {
  clearTimeout(saving);
  const own = given;
  saving = setTimeout(async () => {
    const made = widget && own === given && !busy ? answer() : null;
    if (made === null || own.said?.status === "submitted") return;
    try {
      await post(`/api/assignments/${own.assignment}/judgements`, { key: key(), status: "draft", answer: made, seconds: seconds() });
    } catch (error) {
      if (error instanceof Failed && error.status < 500) toast(error.message);
    }
  }, 1200);
}

const next = async () => {
  place = -1;
  if (decide && given) {
    location.assign(`/project/${path(project)}`);
    return;
  }
  show(await insist(`/api/projects/${path(project)}/next`, {}, () => toast("Waiting for the studio ...")));
};

async function say(status, reason = "") {
  if (busy || !widget) return;
  const made = status === "submitted" ? answer() : {};
  if (made === null) {
    toast("Not answered yet.");
    return;
  }
  busy = true;
  clearTimeout(saving);
  // Why one passes over an item is worth as much as why one sends it back.
  const why = status === "skipped" ? at("comment").value.trim() : reason;
  const body = { key: key(), status, answer: made, reason: why, seconds: seconds() };
  try {
    const told = await insist(`/api/assignments/${given.assignment}/judgements`, body, () => toast("Not sent yet; trying again ..."));
    await next();
    if (told.suggestions.length) tellSuggestions(told.suggestions, made);
  } finally {
    busy = false;
  }
}

async function back() {
  if (place < 0) history = await get(`/api/projects/${path(project)}/mine`);
  if (place + 1 >= history.length) {
    toast("There is nothing before this.");
    return;
  }
  place += 1;
  show(await get(`/api/assignments/${history[place].assignment}`));
  toast("An answer of yours: submit again to correct it.");
}

function flag() {
  at("reason").value = "";
  at("flagging").showModal();
}
at("flagging").addEventListener("close", guarded(async () => {
  if (at("flagging").returnValue === "send" && at("reason").value.trim()) await say("flagged", at("reason").value);
  at("flagging").returnValue = "";
}));

function guidelines() {
  fill(at("guidetext"), given?.guideline ? content(given.guideline.text) : [el("p", {}, "There are none for this project.")]);
  at("guidelines").showModal();
}

function help() {
  const common = [["Enter", "submit"], ["s", "skip"], ["f", "flag"], ["b", "back to an earlier answer"], ["c", "comment"], ["g", "guidelines"], ["m", "plain text or rendered"], ["?", "these keys"]];
  fill(at("keylist"), [...(widget?.keys ?? []), ...common].flatMap(([k, what]) => [el("dt", {}, k), el("dd", {}, what)]));
  at("help").showModal();
}

function raw() {
  plain = !plain;
  at("raw").setAttribute("aria-pressed", String(plain));
  if (widget) draw(widget.answer());
}

const actions = {
  s: () => say("skipped"),
  f: flag,
  b: back,
  g: guidelines,
  m: raw,
  "?": help,
  c: () => at("comment").focus(),
};

document.addEventListener("keydown", pressed);
async function pressed(event) {
  if (event.isComposing || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const target = event.target;
  const writing = target.matches("textarea, input:not([type=radio]), select");
  try {
    if (event.key === "Enter") {
      const inText = target.matches("textarea") && !widget?.readsKeysIn?.(target);
      if (target.matches("button, a, summary") || (inText && !event.ctrlKey)) return;
      event.preventDefault();
      await say("submitted");
      return;
    }
    if (event.key === "Escape" && writing) { at("question").focus(); return; }
    if (event.ctrlKey || (writing && !widget?.readsKeysIn?.(target))) return;
    if (widget?.key(event)) event.preventDefault();
    else if (actions[event.key] && !event.repeat) { event.preventDefault(); await actions[event.key](); }
  } catch (error) {
    toast(error.message);
  }
}

at("submit").addEventListener("click", guarded(() => say("submitted")));
at("skip").addEventListener("click", guarded(() => say("skipped")));
at("flag").addEventListener("click", flag);
at("back").addEventListener("click", guarded(back));
at("guide").addEventListener("click", guidelines);
at("keys").addEventListener("click", help);
at("raw").addEventListener("click", raw);
at("answer").addEventListener("submit", (event) => event.preventDefault());
at("comment").addEventListener("input", changed);
// A reviewer who decides on a disputed item comes with its number.
const decide = new URLSearchParams(location.search).get("decide");
guarded(async () => {
  if (!decide) return next();
  return show(await post(`/api/projects/${path(project)}/adjudicate/${encodeURIComponent(decide)}`));
})();
