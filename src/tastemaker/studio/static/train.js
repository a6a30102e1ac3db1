// The form that configures a training, its estimate, and its curves while it runs.
import { charts } from "./chart.js";
import { get, guarded, post } from "./api.js";
import { at, el, fill, number, path, toast } from "./dom.js";

const form = at("train");
let methods = [];
let watching = null;

const options = (values) => values.map((v) => el("option", { value: v }, v));

function settings() {
  const method = methods.find((m) => m.name === form.elements.method.value);
  at("rewarded").hidden = !method.rewarded;
  at("told").textContent = `${method.told} It takes ${method.rewarded ? "the prompts of any data" : `${method.consumes.toLowerCase()}s`}.`;
  fill(at("settings"), Object.entries(method.settings).map(([name, value]) => {
    if (typeof value === "boolean") return el("label", { class: "check" }, el("input", { type: "checkbox", name: `s-${name}`, checked: value }), name === "use_peft" ? "LoRA" : name);
    return el("label", {}, name, el("input", { name: `s-${name}`, placeholder: value === null ? "its own" : String(value), autocomplete: "off" }));
  }));
}

function values() {
  const found = {};
  for (const input of at("settings").querySelectorAll("input")) {
    const name = input.name.slice(2);
    if (input.type === "checkbox") found[name] = input.checked;
    else if (input.value.trim() !== "") found[name] = input.value.trim();
  }
  return found;
}

const body = () => ({
  method: form.elements.method.value,
  model: form.elements.model.value,
  data: form.elements.data.value,
  reward: at("rewarded").hidden ? null : form.elements.reward.value || null,
  price: form.elements.price.value === "" ? null : Number(form.elements.price.value),
  values: values(),
});

const bytes = (n) => (n >= 1e9 ? `${(n / 1e9).toPrecision(3)} GB` : `${(n / 1e6).toPrecision(3)} MB`);
const time = (s) => (s >= 5400 ? `${(s / 3600).toPrecision(2)} h` : s >= 90 ? `${(s / 60).toPrecision(2)} min` : `${s.toPrecision(2)} s`);

at("estimate").addEventListener("click", guarded(async () => {
  const told = await post("/api/training/estimate", body());
  const total = Object.values(told.seconds).reduce((a, b) => a + b, 0);
  const figure = (value, name) => el("div", {}, el("b", {}, value), el("span", { class: "note" }, name));
  fill(at("estimated"), el("h2", {}, "Estimate"), el("div", { class: "figures" },
    figure(bytes(told.peak_bytes), told.fits ? `memory; fits ${told.hardware.name}` : "memory: does not fit"),
    figure(time(total), `${told.steps} steps`),
    figure(number(Object.values(told.flops).reduce((a, b) => a + b, 0), 2), "operations"),
    told.cost === null ? null : figure(number(told.cost, 2), "cost")),
    told.remedies.length ? el("ul", {}, told.remedies.map((r) => el("li", {}, String(r)))) : null);
}));

form.addEventListener("submit", guarded(async () => {
  const name = form.elements.name.value;
  await post("/api/training", { ...body(), name });
  watch(name);
}));

function watch(name) {
  watching = name;
  at("watch").hidden = false;
  at("watched").textContent = name;
  at("watch").scrollIntoView({ block: "start" });
  follow();
}

async function follow() {
  const name = watching;
  try {
    const told = await get(`/api/curves/${path(name)}`);
    at("state").textContent = told.status + (told.reason ? `: ${told.reason}` : "");
    at("log").textContent = told.job.log;
    fill(at("curves"), charts(told.curves));
    const open = at("open");
    open.href = `/runs/${path(name)}`;
    open.hidden = told.status === "starting";
    at("beside").href = `/compare?model=${encodeURIComponent(name)}`;
    at("beside").hidden = told.status !== "finished";
    if (at("stop")) at("stop").hidden = !told.job.running;
    if (!told.job.running && told.status !== "running") return;
  } catch (error) {
    toast(error.message);
  }
  if (watching === name) setTimeout(follow, 1500);
}

at("stop")?.addEventListener("click", guarded(async () => { await post(`/api/training/${path(watching)}/stop`); }));

guarded(async () => {
  const told = await get("/api/training");
  methods = told.methods;
  fill(form.elements.method, options(methods.map((m) => m.name)));
  fill(form.elements.model, options(told.models));
  fill(form.elements.data, options(told.data));
  fill(form.elements.reward, options(told.rewards));
  form.elements.method.value = "dpo";
  form.elements.method.addEventListener("change", settings);
  settings();
  if (!told.data.length) toast("There is no data yet: export labels or upload a file.");
})();
