// The screen.  What came from a server is shown as text, never as markup; each delta becomes a text node of its own in
// the moment it comes.  It knows the document; not events, nor how anything was measured.

import { QUIET } from "./framer.js";
import { percentile } from "./latency.js";
import { METRICS } from "./metrics.js";

const ENTRIES = 300; // entries on the screen; the oldest go
const VALUES = 500; // values of each figure, for its percentiles; the oldest go
const SPARK = 60; // turns in the graph
const NEAR_END = 80; // px: a person who has scrolled further up is left there

const SVG = "http://www.w3.org/2000/svg";
const ROWS = METRICS.filter(({ page }) => page);

export const byId = (id) => document.getElementById(id);

export function show(id, shown) {
  byId(id).hidden = !shown;
}

function element(kind, more = {}, ...children) {
  const made = Object.assign(document.createElement(kind), more);
  made.append(...children);
  return made;
}

/** A figure as text: one decimal below ten, else none. */
export function written(ms) {
  return ms === undefined ? "–" : ms < 9.95 ? ms.toFixed(1) : String(Math.round(ms));
}

// ── lines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

/** Shows how the link does, in the first line. */
export function linkLine(state, why) {
  byId("link-state").textContent = state;
  byId("link-why").textContent = why;
}

/** Tells a screen reader what the first line shows; words of the conversation are read out by themselves. */
export function announce(text) {
  byId("said").textContent = text;
}

/** Shows what went wrong and what to do; "" for nothing. */
export function trouble(text) {
  byId("trouble").textContent = text;
  show("trouble", Boolean(text));
}

/** Shows the level of the microphone, dBFS. */
export function level(loud) {
  byId("level").firstElementChild.style.setProperty("--level", String((loud - QUIET) / -QUIET));
  byId("level").setAttribute("aria-valuenow", String(Math.round(loud)));
}

// ── the conversation ──────────────────────────────────────────────────────────────────────────────────────────────

export class Turns {
  constructor(list, name) {
    Object.assign(this, { list, name, entries: new Map(), follows: true });
    list.addEventListener("scroll", () => {
      this.follows = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR_END;
    });
    new ResizeObserver(() => this.follow()).observe(list);
  }

  follow() {
    if (this.follows) this.list.scrollTop = this.list.scrollHeight;
  }

  /** Does what a Transcript says.  `painted(ms)` is called with how long each piece of text took to the screen. */
  apply(op, at, painted) {
    const entry = this.entries.get(op.key);
    if (op.key && op.op !== "open" && !entry) return; // the entry was the oldest, and has gone
    switch (op.op) {
      case "open":
        this.open(op);
        break;
      case "append":
        if (entry.guess.firstChild) entry.guess.replaceChildren();
        entry.text.append(document.createTextNode(op.text));
        rendered(at, painted);
        break;
      case "guess":
        entry.guess.replaceChildren(document.createTextNode(op.text));
        break;
      case "close":
        entry.item.classList.remove("open");
        entry.item.removeAttribute("aria-busy");
        entry.guess.replaceChildren();
        entry.item.classList.toggle("broken", op.broken);
        if (op.remark) entry.item.append(element("p", { className: "remark", textContent: op.remark }));
        break;
      case "drop":
        entry.item.remove();
        this.entries.delete(op.key);
        break;
      case "note":
        this.list.append(element("li", { className: op.trouble ? "note trouble" : "note", textContent: op.text }));
        break;
      default:
    }
    while (this.list.childElementCount > ENTRIES) this.forget(this.list.firstElementChild);
    this.follow();
  }

  open({ key, voice }) {
    const name = element("span", { className: "who", textContent: voice === "user" ? "You" : this.name });
    const [text, guess] = [element("span", { className: "text" }), element("span", { className: "guess" })];
    const figures = element("span", { className: "figures" });
    text.dir = "auto";
    const item = element("li", { className: `${voice} open` }, name, element("p", {}, text, guess), figures);
    item.dataset.key = key;
    item.setAttribute("aria-busy", "true"); // read out when it is whole
    this.entries.set(key, { item, text, guess, figures });
    this.list.append(item);
  }

  forget(item) {
    this.entries.delete(item.dataset.key);
    item.remove();
  }

  /** Shows the one figure that matters for this kind of turn. */
  measured(key, metrics) {
    const entry = this.entries.get(key);
    const name = ["ttft_user_ms", "final_ms", "first_text_ms", "total_ms"].find((each) => metrics[each] !== undefined);
    if (entry && name) entry.figures.textContent = `${name.slice(0, -3)} ${written(metrics[name])} ms`;
  }
}

/** Calls back when it is on the screen: the frame after the one that shows it has begun.  A hidden page paints nothing. */
function rendered(at, painted) {
  if (document.hidden) return;
  requestAnimationFrame(() => requestAnimationFrame(() => painted(performance.now() - at)));
}

// ── the figures ───────────────────────────────────────────────────────────────────────────────────────────────────

export class Figures {
  constructor() {
    this.values = Object.fromEntries(ROWS.map(({ name }) => [name, []]));
    this.cells = {};
    this.head = "final_ms";
    this.targets = {};
    this.finished = 0;
    for (const { name, meaning } of ROWS) {
      const cells = Array.from({ length: 3 }, () => element("td", { textContent: "–" }));
      byId("rows").append(element("tr", { title: meaning }, element("th", { scope: "row", textContent: name }), ...cells));
      byId("glossary").append(element("dt", { textContent: name }), element("dd", { textContent: meaning }));
      this.cells[name] = cells;
    }
  }

  /** Chooses the figure of the graph: with answers, the time to their first words. */
  about(answers, targets) {
    this.head = answers ? "ttft_user_ms" : "final_ms";
    this.targets = targets;
    byId("head-name").textContent = this.head;
    this.draw();
  }

  /** Takes the figures of a turn that is over or has begun to be answered; only complete ones count for percentiles. */
  turn({ metrics, complete }) {
    if (metrics.ttft_user_ms !== undefined && !complete) {
      const cell = this.cells.ttft_server_ms[0];
      [cell.textContent, cell.className] = ["…", ""]; // known at the end of the turn
    }
    for (const [name, ms] of Object.entries(metrics)) {
      if (!(name in this.values)) continue;
      if (complete) this.count(name, ms);
      this.cells[name][0].textContent = written(ms);
      this.cells[name][0].classList.toggle("over", ms > (this.targets[name] ?? Infinity));
      if (name === this.head) byId("head-last").textContent = `${written(ms)} ms`;
    }
    if (complete) {
      this.finished += 1;
      byId("counts").textContent = `of ${this.finished} ${this.finished === 1 ? "utterance" : "utterances and answers"}`;
    }
    this.draw();
  }

  painted(ms) {
    this.count("render_ms", ms);
    this.cells.render_ms[0].textContent = written(ms);
  }

  count(name, ms) {
    const values = this.values[name];
    values.push(ms);
    if (values.length > VALUES) values.shift();
    if (name === "render_ms" && values.length % 10 !== 1) return; // its percentiles move slowly
    this.cells[name][1].textContent = written(percentile(values, 50));
    this.cells[name][2].textContent = written(percentile(values, 95));
  }

  /** Draws the latest turns, from 0 up to the slowest of them. */
  draw() {
    const values = this.values[this.head].slice(-SPARK);
    const spark = byId("spark");
    spark.replaceChildren();
    if (!values.length) return;
    const most = Math.max(...values) * 1.15;
    const place = (value, at) => [values.length < 2 ? 236 : 4 + (232 * at) / (values.length - 1), 46 - (44 * value) / most];
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", values.map((value, at) => place(value, at).map((n) => n.toFixed(1)).join(",")).join(" "));
    const [x, y] = place(values.at(-1), values.length - 1);
    const dot = document.createElementNS(SVG, "path"); // a line of no length: round, however the graph is stretched
    dot.setAttribute("d", `M${x.toFixed(1)} ${y.toFixed(1)}h0`);
    spark.append(line, dot);
    spark.setAttribute("aria-label", `${this.head} of the latest ${values.length} turns, ms: ${values.map(written).join(", ")}`);
  }
}
