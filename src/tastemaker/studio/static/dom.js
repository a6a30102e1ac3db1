// Elements from text nodes alone: nothing that comes from data is ever parsed as HTML.

export function el(tag, options = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value !== "string") made[name] = value;
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) made.append(child);
  }
  return made;
}

export const at = (id) => document.getElementById(id);

export function fill(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((c) => c !== null && c !== undefined));
  parent.removeAttribute("aria-busy");
}

let hiding;
export function toast(text) {
  const box = at("toast");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(hiding);
  hiding = setTimeout(() => box.classList.remove("on"), 4000);
}

// Names of runs are paths: each part is escaped by itself.
export const path = (name) => name.split("/").map(encodeURIComponent).join("/");

export function number(value, digits = 3) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  const size = Math.abs(value);
  if (size >= 1e5) return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: digits }).format(value);
  if (size && size < 1e-3) return value.toExponential(digits - 1);
  return Number.isInteger(value) ? String(value) : value.toPrecision(digits);
}

export const percent = (value) => (value === null || value === undefined ? "–" : `${Math.round(100 * value)} %`);
