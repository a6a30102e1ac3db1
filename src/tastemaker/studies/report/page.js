// Samples one at a time, by kind, by text, sampled or greedy. Without it all of them stand on the page.
(() => {
  const place = document.getElementById("browse");
  const shelf = document.getElementById("shelf");
  const samples = [...document.querySelectorAll("#samples .sample")];
  if (!place || !shelf || samples.length < 2) return;
  let at = 0;
  let found = samples;

  const make = (tag, settings, ...inside) => {
    const made = Object.assign(document.createElement(tag), settings);
    made.append(...inside);
    return made;
  };
  const button = (words, move) => make("button", { type: "button", onclick: () => go(move) }, words);

  const kinds = [...new Set(samples.map((sample) => sample.dataset.kind))];
  const kind = make("select", {}, make("option", { value: "" }, "all kinds"));
  kind.setAttribute("aria-label", "Kind of prompt");
  kinds.forEach((name, i) => kind.append(make("option", { value: String(i + 1) }, name)));
  const box = make("input", { type: "search", placeholder: "Filter by text" });
  box.setAttribute("aria-label", "Filter samples by text");
  const ways = ["sampled", "greedy", "both"].filter((way, i) => i === 0 || shelf.querySelector(".greedy"));
  const choice = make("fieldset", { className: "choice" });
  for (const way of ways) {
    const radio = make("input", { type: "radio", name: "way", value: way, checked: way === "sampled" });
    choice.append(make("label", {}, radio, way));
  }
  const all = make("input", { type: "checkbox" });
  const back = button("‹ Previous", -1);
  const next = button("Next ›", 1);
  const told = make("span", { className: "told" });
  told.setAttribute("aria-live", "polite");

  const show = () => {
    const many = all.checked;
    for (const sample of samples) sample.hidden = true;
    found.forEach((sample, i) => (sample.hidden = !many && i !== at));
    told.textContent = found.length === 0 ? "none found" : many ? `${found.length} shown` : `${at + 1} of ${found.length}`;
    back.disabled = many || at === 0;
    next.disabled = many || at >= found.length - 1;
  };
  const filter = () => {
    const wanted = box.value.trim().toLowerCase();
    const name = kinds[kind.value - 1];
    found = samples.filter(
      (sample) =>
        (name === undefined || sample.dataset.kind === name) && sample.textContent.toLowerCase().includes(wanted),
    );
    at = 0;
    show();
  };
  const go = (move) => {
    at = Math.min(Math.max(at + move, 0), found.length - 1);
    show();
  };

  box.addEventListener("input", filter);
  kind.addEventListener("change", filter);
  all.addEventListener("change", show);
  choice.addEventListener("change", (event) => (shelf.dataset.way = event.target.value));
  place.addEventListener("keydown", (event) => {
    if (event.target.tagName !== "BUTTON" || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
    go(event.key === "ArrowLeft" ? -1 : 1);
  });
  shelf.dataset.way = "sampled";
  shelf.replaceChildren(...samples);
  place.append(
    make("div", { className: "filters" }, box, ...(kinds.length > 1 ? [kind] : []), choice),
    make("div", { className: "pager" }, back, told, next, make("label", {}, all, "show all")),
  );
  place.hidden = false;
  show();
})();
