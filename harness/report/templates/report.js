// Sorting tables by any column, and showing which runs are behind a figure. The page is complete without it.
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
