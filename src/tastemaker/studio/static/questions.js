// One widget per kind of question. Each gives: answer() (null while incomplete), key(event) (true where it was
// for it), keys (for the help), and takes the answer given before. Sides are those shown; the studio maps them back.
import { el, fill } from "./dom.js";
import { content } from "./markdown.js";

export const letters = "ABCDEFGHIJKLMNOP";

const ASKS = {
  pair: "Which response is better?",
  preference: "Which response is better, and by how much?",
  ranking: "Put the responses in order, best first.",
  desirable: "Is this response good?",
  rating: "Rate each response.",
  steps: "Is each step right?",
  spans: "Mark the pieces.",
  text: "What should the answer be?",
};
export const asks = (given) => given.question || ASKS[given.kind];

function card(given, k, plain) {
  const head = given.responses.length > 1 ? el("p", { class: "head" }, `Response ${letters[k]}`, el("kbd", {}, String(k + 1))) : null;
  return el("article", { class: "response", "aria-label": `Response ${letters[k]}` }, head, content(given.responses[k], plain));
}

const cards = (given, place, plain) => fill(place.responses, given.responses.map((_, k) => card(given, k, plain)));

// Radio buttons as large choices; `options`: [value, label, key].
function radios(name, options, chosen, changed) {
  const inputs = new Map();
  const group = el("div", { class: "choices", role: "radiogroup" });
  for (const [value, label, key] of options) {
    const input = el("input", { type: "radio", name, value: String(value), checked: value === chosen, onchange: () => changed(value) });
    inputs.set(value, input);
    group.append(el("label", { class: "choice" }, input, label, key ? el("kbd", {}, key) : null));
  }
  return { group, choose: (value) => { inputs.get(value).checked = true; changed(value); } };
}

// A choice of one among options that each stand for an answer.
function single(given, place, plain, options, before, marked = () => []) {
  cards(given, place, plain);
  const same = (a, b) => JSON.stringify(a ?? null) === JSON.stringify(b ?? null);
  const kept = ({ preferred, level, tie, desirable }) => JSON.parse(JSON.stringify({ preferred, level, tie, desirable }));
  let chosen = before ? options.findIndex((o) => same(kept(o.answer), kept(before))) : -1;
  const show = () => [...place.responses.children].forEach((c, k) => c.classList.toggle("chosen", chosen >= 0 && marked(options[chosen].answer).includes(k)));
  const made = radios("answer", options.map((o, i) => [i, o.label, o.keys[0]]), chosen, (i) => { chosen = i; show(); place.changed(); });
  fill(place.form, made.group);
  show();
  return {
    answer: () => (chosen < 0 ? null : options[chosen].answer),
    key(event) {
      const i = options.findIndex((o) => o.keys.includes(event.key));
      if (i < 0) return false;
      made.choose(i);
      return true;
    },
    keys: options.map((o) => [o.keys.join(" or "), o.label]),
  };
}

const ties = (given) => given.ties ? [
  { label: "Equally good", answer: { tie: "equal" }, keys: given.kind === "preference" ? ["3", "0", "="] : ["0", "="] },
  { label: "Both bad", answer: { tie: "both_bad" }, keys: ["x"] },
] : [];

function pair(given, place, plain, before) {
  const arrows = ["ArrowLeft", "ArrowRight"];
  const sides = [0, 1].map((k) => ({ label: `${letters[k]} is better`, answer: { preferred: k }, keys: [String(k + 1), arrows[k]] }));
  return single(given, place, plain, [...sides, ...ties(given)], before, (a) => ("preferred" in a ? [a.preferred] : []));
}

function preference(given, place, plain, before) {
  const [equal, bad] = ties(given);
  const options = [
    { label: "A is much better", answer: { level: 2 }, keys: ["1"] },
    { label: "A is a little better", answer: { level: 1 }, keys: ["2"] },
    ...(equal ? [equal] : []),
    { label: "B is a little better", answer: { level: -1 }, keys: ["4"] },
    { label: "B is much better", answer: { level: -2 }, keys: ["5"] },
    ...(bad ? [bad] : []),
  ];
  return single(given, place, plain, options, before, (a) => ("level" in a ? [a.level > 0 ? 0 : 1] : []));
}

function desirable(given, place, plain, before) {
  const options = [
    { label: "Good", answer: { desirable: true }, keys: ["1", "y"] },
    { label: "Bad", answer: { desirable: false }, keys: ["2", "n"] },
  ];
  return single(given, place, plain, options, before);
}

function ranking(given, place, plain, before) {
  cards(given, place, plain);
  const n = given.responses.length;
  const ranks = before?.ranking ? [...before.ranking] : new Array(n).fill(null);
  let last = [];
  let tying = false;
  const selects = ranks.map((_, k) => {
    const made = el("select", { "aria-label": `Place of response ${letters[k]}`, onchange: () => { ranks[k] = made.value === "" ? null : Number(made.value); show(); place.changed(); } },
      el("option", { value: "" }, "–"), ranks.map((__, r) => el("option", { value: String(r) }, `${r + 1}.`)));
    return made;
  });
  const told = el("p", { class: "note", role: "status" });
  const show = () => {
    selects.forEach((s, k) => { s.value = ranks[k] === null ? "" : String(ranks[k]); });
    const order = ranks.map((r, k) => [r, k]).filter(([r]) => r !== null).sort((a, b) => a[0] - b[0]);
    told.textContent = order.length ? order.map(([r, k]) => `${r + 1}. ${letters[k]}`).join("   ") : "Press the numbers of the responses, best first.";
  };
  fill(place.form, el("div", { class: "choices" }, selects.map((s, k) => el("label", {}, `Response ${letters[k]}`, s))), told);
  show();
  return {
    answer: () => (ranks.includes(null) || (!given.ties && new Set(ranks).size < n) ? null : { ranking: ranks }),
    key(event) {
      const k = event.key === "" ? -1 : Number(event.key) - 1;
      if (Number.isInteger(k) && k >= 0 && k < n && ranks[k] === null) {
        const most = Math.max(-1, ...ranks.filter((r) => r !== null));
        ranks[k] = tying && most >= 0 ? most : most + 1;
        tying = false;
        last.push(k);
      } else if (event.key === "=" && given.ties) tying = true;
      else if (event.key === "Backspace" && last.length) ranks[last.pop()] = null;
      else return false;
      show();
      place.changed();
      return true;
    },
    keys: [["1, 2, ...", "the next best response"], ["=", "the next one ties with the last"], ["Backspace", "take the last one back"]],
  };
}

function rating(given, place, plain, before) {
  const rows = [];
  let current = 0;
  fill(place.form);
  fill(place.responses, given.responses.map((_, k) => {
    const box = card(given, k, plain);
    const set = el("fieldset", {}, el("legend", {}, `Ratings of response ${letters[k]}`));
    for (const axis of given.axes) {
      const row = { k, axis, value: before?.ratings?.[k]?.[axis] ?? null };
      const own = rows.length;
      const values = Array.from({ length: given.scale }, (__, i) => [i + 1, String(i + 1), ""]);
      row.choose = null;
      const made = radios(`r${k}-${axis}`, values, row.value, (value) => { row.value = value; current = own; place.changed(); });
      made.group.setAttribute("aria-label", axis);
      row.choose = made.choose;
      row.line = el("div", { class: "axis" }, el("span", {}, axis), made.group);
      rows.push(row);
      set.append(row.line);
    }
    box.append(set);
    return box;
  }));
  const focus = () => rows[current]?.line.querySelector("input").focus();
  const first = rows.findIndex((r) => r.value === null);
  current = first < 0 ? 0 : first;
  return {
    answer: () => rows.some((r) => r.value === null) ? null
      : { ratings: given.responses.map((_, k) => Object.fromEntries(rows.filter((r) => r.k === k).map((r) => [r.axis, r.value]))) },
    key(event) {
      const value = Number(event.key);
      if (!(event.key >= "0" && event.key <= "9") || value > given.scale) return false;
      rows[current].choose(value === 0 ? 10 : value);
      current = Math.min(rows.length - 1, current + 1);
      focus();
      return true;
    },
    keys: [[`1 to ${given.scale}`, "rates the current axis and goes to the next"]],
  };
}

function steps(given, place, plain, before) {
  const turns = given.responses[0];
  const labels = turns.map((_, i) => before?.labels?.[i] ?? null);
  let current = Math.max(0, labels.indexOf(null));
  const rows = turns.map((turn, i) => {
    const made = radios(`step${i}`, [[true, "Right", ""], [false, "Wrong", ""]], labels[i], (value) => { labels[i] = value; current = i; show(); place.changed(); });
    made.group.setAttribute("aria-label", `Step ${i + 1}`);
    return { made, line: el("li", {}, content([turn], plain)[0].querySelector(".text"), made.group) };
  });
  fill(place.responses, el("ol", { class: "steps" }, rows.map((r) => r.line)));
  fill(place.form);
  const show = () => rows.forEach((r, i) => r.line.classList.toggle("at", i === current));
  show();
  return {
    answer: () => (labels.includes(null) ? null : { labels }),
    key(event) {
      if (["1", "y", "2", "n"].includes(event.key)) {
        const own = current;
        rows[own].made.choose(event.key === "1" || event.key === "y");
        current = Math.min(rows.length - 1, own + 1);
      } else if (event.key === "ArrowDown") current = Math.min(rows.length - 1, current + 1);
      else if (event.key === "ArrowUp") current = Math.max(0, current - 1);
      else return false;
      show();
      rows[current].line.scrollIntoView({ block: "nearest" });
      return true;
    },
    keys: [["1 or y", "the step is right"], ["2 or n", "the step is wrong"], ["Up, Down", "another step"]],
  };
}

// Browsers count UTF-16 units; the store counts characters.
const characters = (text, units) => [...text.slice(0, units)].length;

function spans(given, place, plain, before) {
  const found = before?.spans ? before.spans.map((s) => ({ ...s })) : [];
  const texts = given.responses.map((r) => (typeof r === "string" ? r : r.map((t) => t.content).join("\n\n")));
  const list = el("ul");
  // Not read-only: browsers move no caret by keyboard in a field that is. What would change it is stopped.
  const still = (event) => event.preventDefault();
  const areas = texts.map((text, k) => el("textarea", { onbeforeinput: still, ondrop: still, inputmode: "none", spellcheck: "false", rows: String(Math.min(18, 2 + Math.ceil(text.length / 60))), "aria-label": `Response ${letters[k]}: select a piece, then press a mark's number` }, text));
  const views = texts.map(() => el("div", { class: "text plain", dir: "auto", "aria-hidden": "true" }));
  const show = () => {
    texts.forEach((text, k) => {
      const points = [...text];
      const own = found.filter((s) => s.response === k).sort((a, b) => a.start - b.start);
      const parts = [];
      let last = 0;
      for (const s of own) {
        if (s.start < last) continue;
        parts.push(points.slice(last, s.start).join(""), el("mark", { title: s.label }, points.slice(s.start, s.end).join("")));
        last = s.end;
      }
      fill(views[k], ...parts, points.slice(last).join(""));
    });
    fill(list, found.map((s, i) => el("li", {}, `${s.label}: “${[...texts[s.response]].slice(s.start, s.end).join("")}” `,
      el("button", { type: "button", class: "plain", onclick: () => { found.splice(i, 1); show(); place.changed(); } }, "Remove"))));
  };
  const mark = (label) => {
    const k = Math.max(0, areas.findIndex((a) => a === document.activeElement || a.dataset.last === "yes"));
    const { selectionStart: from, selectionEnd: to } = areas[k];
    if (from === to) return;
    found.push({ response: k, start: characters(texts[k], from), end: characters(texts[k], to), label });
    show();
    place.changed();
  };
  areas.forEach((a) => a.addEventListener("focus", () => areas.forEach((other) => { other.dataset.last = other === a ? "yes" : ""; })));
  fill(place.responses, areas.map((a, k) => el("article", { class: "response" }, a, views[k])));
  const marks = given.labels.map((label, i) => el("button", { type: "button", onmousedown: (e) => e.preventDefault(), onclick: () => mark(label) }, label, el("kbd", {}, String(i + 1))));
  fill(place.form, el("div", { class: "choices" }, marks), list);
  show();
  return {
    answer: () => ({ spans: found }),
    key(event) {
      const i = Number(event.key) - 1;
      if (!(i >= 0 && i < given.labels.length)) return false;
      mark(given.labels[i]);
      return true;
    },
    readsKeysIn: (target) => areas.includes(target),
    keys: [["Shift + arrows", "select a piece of the text"], ["1, 2, ...", "mark it"]],
  };
}

function text(given, place, plain, before) {
  cards(given, place, plain);
  const area = el("textarea", { rows: "8", maxlength: "200000", "aria-labelledby": "question", oninput: () => place.changed() });
  area.value = before?.text ?? "";
  fill(place.form, area);
  return {
    answer: () => (area.value.trim() ? { text: area.value } : null),
    key: () => false,
    focus: () => area.focus(),
    keys: [["Ctrl + Enter", "submit from within the text"]],
  };
}

export const widgets = { pair, preference, desirable, ranking, rating, steps, spans, text };
