// Filters the samples by text. Without it the page is complete: the box is made here.
(() => {
  const place = document.getElementById("filter");
  const samples = [...document.querySelectorAll(".sample")];
  if (!place || samples.length < 2) return;
  const box = document.createElement("input");
  box.type = "search";
  box.placeholder = "Filter samples by text";
  box.setAttribute("aria-label", box.placeholder);
  box.addEventListener("input", () => {
    const wanted = box.value.trim().toLowerCase();
    for (const sample of samples) sample.hidden = !sample.textContent.toLowerCase().includes(wanted);
    for (const kind of document.querySelectorAll("details.kind")) {
      const found = kind.querySelector(".sample:not([hidden])") !== null;
      kind.hidden = !found;
      if (wanted && found) kind.open = true;
    }
  });
  place.append(box);
  place.hidden = false;
})();
