// The example browser: two arms' answers to one example, after as many segments as the slider says.
"use strict";

(function watch() {
  const source = document.getElementById("traces");
  if (!source) return;
  const tasks = JSON.parse(source.textContent);
  const root = document.getElementById("watch");
  const find = (name) => root.querySelector(`[data-part="${name}"]`);
  const controls = Object.fromEntries(
    ["task", "left", "right", "show", "example", "segment"].map((name) => [name, find(name)]),
  );
  root.querySelector(".controls").hidden = false;

  const make = (tag, text, attributes = {}) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    return element;
  };
  const fill = (select, options) => {
    const before = select.value;
    select.replaceChildren(...options.map(([value, text]) => make("option", text, { value })));
    if (options.some(([value]) => String(value) === before)) select.value = before;
  };

  const task = () => tasks[Number(controls.task.value)];
  const arm = (side) => task().arms[Number(controls[side].value)];

  // what an arm says after a segment; one-pass arms say the same throughout
  function step(own, segment) {
    const last = Math.min(segment, own.answers.length);
    let place = last - 1;
    while (own.answers[place] === null) place -= 1;
    return { segment: last, answer: own.answers[place], changed: place === last - 1 && last > 1 };
  }
  const finallyRight = (own, trained) => Boolean(own && own.right[Math.min(trained, own.right.length) - 1]);

  const SHOW = {
    all: ["all", () => true],
    left: ["only the left arm right", (l, r) => l && !r],
    right: ["only the right arm right", (l, r) => r && !l],
    both: ["both right", (l, r) => l && r],
    neither: ["neither right", (l, r) => !l && !r],
  };

  function outcomes() {
    const [left, right] = [arm("left"), arm("right")];
    return task().examples.map((example, i) => ({
      i,
      example,
      left: finallyRight(left.examples[i], left.trained),
      right: finallyRight(right.examples[i], right.trained),
    }));
  }

  function listExamples() {
    const all = outcomes();
    fill(
      controls.show,
      Object.entries(SHOW).map(([key, [words, test]]) => [
        key,
        `${words} (${all.filter((o) => test(o.left, o.right)).length})`,
      ]),
    );
    const shown = all.filter((o) => SHOW[controls.show.value][1](o.left, o.right));
    fill(
      controls.example,
      shown.map((o) => {
        const group = o.example.group ? `, ${o.example.group}` : "";
        return [o.i, `${o.example.id}${group}, ${task().unit} ${o.example.difficulty ?? "unknown"}`];
      }),
    );
    controls.example.disabled = shown.length === 0;
  }

  function grid(tokens, columns, symbols, marks) {
    const body = make("tbody");
    for (let start = 0; start < tokens.length; start += columns) {
      const row = make("tr");
      tokens.slice(start, start + columns).forEach((token, k) => {
        const symbol = symbols[token] === "_" ? "" : symbols[token];
        const wall = symbol === "#" ? "wall " : "";
        row.append(make("td", symbol, { class: wall + (marks ? marks(start + k) : "") }));
      });
      body.append(row);
    }
    const table = make("table", undefined, { class: columns > 12 ? "grid small" : "grid" });
    table.append(body);
    return table;
  }

  const picture = (found, tokens, marks) =>
    found.columns ? grid(tokens, found.columns, found.symbols, marks) : make("p", tokens || "(nothing)", { class: "text" });

  function panel(side, i) {
    const [found, who, where] = [task(), arm(side), find(`${side}-panel`)];
    const own = who.examples[i];
    const title = make("h4");
    title.append(make("span", who.glyph, { class: "chip", style: `color:${who.colour}`, "aria-hidden": "true" }));
    title.append(`${who.label}, `, make("a", `seed ${who.seed}`, { href: `#run-${who.cell_id}` }));
    if (!own) return void where.replaceChildren(title, make("p", "did not answer this example"));
    const asked = Number(controls.segment.value);
    const now = step(own, asked);
    const before = now.segment > 1 ? step(own, now.segment - 1).answer : now.answer;
    const example = found.examples[i];
    const scored = (k) => !found.columns || (example.label[k] !== 0 || now.answer[k] !== 0);
    const wrong = (k) => example.label[k] !== 0 && now.answer[k] !== example.label[k];
    const marks = (k) => {
      if (wrong(k)) return now.answer[k] !== before[k] ? "wrong changed" : "wrong";
      if (now.answer[k] !== before[k]) return "changed";
      return scored(k) && example.input.length === now.answer.length && example.input[k] === now.answer[k] ? "given" : "";
    };
    const lines = [];
    if (own.answers.length === 1) lines.push("one pass: no segments to go through");
    else lines.push(`after ${now.segment} of ${own.answers.length} segments (trained with ${who.trained})`);
    const differing = found.columns ? now.answer.filter((_, k) => wrong(k)).length : 0;
    const right = Boolean(own.right[now.segment - 1]);
    const verdict = right ? "right" : differing ? `${differing} position${differing > 1 ? "s differ" : " differs"} from the label` : "not right";
    lines.push(verdict);
    const q = own.q_halt ? own.q_halt[now.segment - 1] : null;
    if (q !== null) {
      const chance = `${Math.round(100 / (1 + Math.exp(-q)))} %`;
      const stops = now.segment === own.halts ? "; it stops here" : now.segment > own.halts ? `; it would have stopped after ${own.halts}` : "";
      lines.push(`q_halt says ${chance} right${stops}`);
    }
    const status = make("p", lines.join(" · "), { class: right ? "status right" : "status" });
    const strip = make("ol", undefined, { class: "strip", "aria-hidden": "true" });
    own.right.forEach((good, k) => {
      const classes = [good ? "good" : "bad"];
      if (k + 1 === now.segment) classes.push("now");
      if (k + 1 === own.halts) classes.push("halts");
      strip.append(make("li", good ? "✓" : "·", { class: classes.join(" ") }));
    });
    where.replaceChildren(title, status, picture(found, now.answer, marks), strip);
  }

  function draw() {
    const found = task();
    const i = Number(controls.example.value);
    const none = controls.example.disabled;
    find("panels").hidden = none;
    find("none").hidden = !none;
    if (none) return;
    const depth = Math.max(...["left", "right"].map((side) => arm(side).examples[i]?.answers.length ?? 1));
    controls.segment.max = depth;
    controls.segment.disabled = depth === 1;
    controls.segment.value = Math.min(Number(controls.segment.value), depth);
    find("count").textContent = `segment ${controls.segment.value} of ${depth}`;
    const example = found.examples[i];
    find("question").replaceChildren(make("h4", "Question"), picture(found, example.input));
    find("label").replaceChildren(make("h4", "Label"), picture(found, example.label));
    panel("left", i);
    panel("right", i);
  }

  function start() {
    const arms = task().arms.map((who, k) => [k, who.label]);
    for (const [side, k] of [["left", 0], ["right", Math.min(1, arms.length - 1)]]) {
      fill(controls[side], arms);
      controls[side].value = k;
    }
    controls.show.value = "all";
    controls.segment.value = 1;
    listExamples();
    draw();
  }

  fill(controls.task, tasks.map((found, k) => [k, found.name]));
  controls.task.value = Math.max(0, tasks.findIndex((found) => found.columns)); // a grid first: more to see
  controls.task.addEventListener("change", start);
  for (const name of ["left", "right", "show"]) {
    controls[name].addEventListener("change", () => {
      listExamples();
      draw();
    });
  }
  controls.example.addEventListener("change", draw);
  controls.segment.addEventListener("input", draw);
  find("play").addEventListener("click", () => {
    controls.segment.value = 1;
    draw();
    const timer = setInterval(() => {
      const more = Number(controls.segment.value) < Number(controls.segment.max);
      if (!more) return clearInterval(timer);
      controls.segment.value = Number(controls.segment.value) + 1;
      draw();
    }, 700);
  });
  start();
})();
