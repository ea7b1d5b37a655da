// Sorting and filtering tables, showing which runs are behind a figure. The page is complete without it.
"use strict";

function key(row, index) {
  const field = row.cells[index];
  const text = field.dataset.sort ?? field.textContent.trim();
  const number = Number(text);
  return text === "" || text === "–" ? null : Number.isNaN(number) ? text : number;
}

function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null); // empty fields stay last
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), "en", { numeric: true });
}

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const rows = Array.from(body.rows, (row) => ({ row, key: key(row, head.cellIndex) }));
    rows.sort((a, b) => (down && a.key !== null && b.key !== null ? compare(b.key, a.key) : compare(a.key, b.key)));
    body.append(...rows.map((item) => item.row));
  });
}

for (const link of document.querySelectorAll("a[data-cells]")) {
  link.addEventListener("click", () => {
    for (const row of document.querySelectorAll("tr.behind")) row.classList.remove("behind");
    for (const id of link.dataset.cells.split(" ")) document.getElementById("run-" + id)?.classList.add("behind");
  });
}

// rows that contain all the words asked for
for (const label of document.querySelectorAll("label.filter")) {
  label.hidden = false;
  const input = label.querySelector("input");
  const rows = Array.from(label.parentNode.querySelector("table").tBodies[0].rows);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = Array.from(row.cells, (cell) => cell.firstElementChild?.tagName === "DETAILS" ? "" : cell.textContent).join(" ").toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    label.querySelector("span").textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}

// a link may lead into a part that is folded away, or to a row that a filter hides
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  for (let place = target; place; place = place.parentElement) {
    if (place.tagName === "DETAILS") place.open = true;
    if (place.tagName === "TR") place.hidden = false;
  }
  target.scrollIntoView();
}
addEventListener("hashchange", reveal);
if (location.hash) reveal();

// on paper nothing can be unfolded, but commands and lists of runs would bury the rest
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.part:not([open]), details.facts:not([open])")) {
    part.open = true;
    part.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const part of document.querySelectorAll("details[data-printed]")) {
    part.open = false;
    delete part.dataset.printed;
  }
});
