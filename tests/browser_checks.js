// Run in a copy of the report by tests/test_browser.py: uses the page as a reader would and writes what it found.
"use strict";
addEventListener("load", () => {
  const found = {};
  const part = (name) => document.querySelector(`[data-part="${name}"]`);
  const set = (element, value, event) => {
    element.value = value;
    element.dispatchEvent(new Event(event, { bubbles: true }));
  };
  const column = (table, index) => Array.from(table.tBodies[0].rows, (row) => row.cells[index].textContent.trim());
  const steps = {
    answers() {
      const answer = document.querySelector("#answer .answers li");
      const closed = Array.from(answer.querySelectorAll(".questions > details"));
      return closed.map((box) => {
        const content = box.querySelector(":scope > div");
        const before = content.checkVisibility();
        box.querySelector("summary").click();
        return [box.querySelector("summary").textContent, !before, content.checkVisibility()];
      });
    },
    sorting() {
      const table = document.querySelector("#runs table");
      const titles = Array.from(table.tHead.rows[0].cells, (cell) => cell.textContent.trim());
      const at = titles.indexOf("test exact (%)");
      const button = table.tHead.rows[0].cells[at].querySelector("button");
      const before = column(table, at);
      button.click();
      const up = column(table, at);
      button.click();
      return { before, up, down: column(table, at), state: button.closest("th").getAttribute("aria-sort") };
    },
    filtering() {
      const label = document.querySelector("#runs label.filter");
      const rows = Array.from(document.querySelectorAll("#runs tbody tr"));
      set(label.querySelector("input"), "grids seed-less", "input");
      const none = rows.filter((row) => !row.hidden).length;
      set(label.querySelector("input"), "grids transformer", "input");
      const shown = rows.filter((row) => !row.hidden).map((row) => row.cells[0].textContent + " " + row.cells[1].textContent);
      const said = label.querySelector("span").textContent;
      set(label.querySelector("input"), "", "input");
      return { none, shown, said, all: rows.filter((row) => !row.hidden).length === rows.length };
    },
    slider() {
      const slider = part("segment");
      set(part("example"), "2", "change");
      const seen = [];
      for (let segment = 1; segment <= Number(slider.max); segment += 1) {
        set(slider, String(segment), "input");
        const panel = part("left-panel");
        seen.push([part("count").textContent, panel.querySelectorAll("td.wrong").length, panel.querySelector(".status").textContent]);
      }
      const strip = Array.from(part("left-panel").querySelectorAll(".strip li"));
      return { seen, halts: strip.findIndex((tick) => tick.classList.contains("halts")) + 1 };
    },
    lists() {
      set(part("show"), "left", "change");
      const only = part("example").options.length;
      set(part("show"), "right", "change");
      const empty = !part("none").hidden && part("panels").hidden;
      set(part("show"), "all", "change");
      return { only, empty, all: part("example").options.length };
    },
    links() {
      const box = document.querySelector("#evidence details.source");
      box.open = true;
      box.querySelector("a[data-cells]").click();
      const marked = document.querySelectorAll("tr.behind").length;
      const folded = document.querySelector("details.part:not([open])");
      location.hash = "#" + folded.id;
      return { marked, asked: box.querySelector("a[data-cells]").dataset.cells.split(" ").length, folded: folded.id };
    },
    wide() {
      const room = document.documentElement.clientWidth;
      const scrolls = (element) => element.closest(".table, .watch > div, .skip");
      return Array.from(document.body.querySelectorAll("*"))
        .filter((element) => element.getBoundingClientRect().right > room + 1 && (!scrolls(element) || scrolls(element) === element))
        .map((element) => `${element.tagName} ${element.className} ${element.id}`).slice(0, 8);
    },
  };
  for (const [name, step] of Object.entries(steps)) {
    try {
      found[name] = step();
    } catch (error) {
      found[name] = String(error);
    }
  }
  setTimeout(() => {
    found.opened = document.getElementById(found.links.folded)?.open; // the change of hash is told later
    found.errors = window.failures;
    const place = document.createElement("pre");
    place.id = "found";
    place.textContent = JSON.stringify(found);
    document.body.append(place);
  }, 200);
});
