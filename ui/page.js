// The page for operators: asks the admin address once a second for what runs, while somebody looks.

const $ = (id) => document.getElementById(id);
const INTERVAL = 1000; // ms
const KEPT = 200; // requests that ended
const SHOWN = 50; // rows of requests that ended
const REQUEST = {
  model: "gpt-5",
  instructions: "Answer in one sentence.",
  input: [{ role: "user", content: "What is the weather in Paris?" }],
  tools: [{ type: "function", name: "get_weather", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } }],
  stream: true,
};

// ---------------------------------------------------------------- words for values

const number = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const hourAndMinute = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });

const count = (value) => (value == null ? "" : number.format(value));
const seconds = (ms) => (ms == null ? "" : ms < 1000 ? `${Math.round(ms)} ms` : `${number.format(ms / 1000)} s`);
const percent = (part, whole) => (whole > 0 ? `${Math.round((100 * part) / whole)} %` : "");

function rate(view) {
  const time = view.duration_ms - (view.first_token_ms ?? view.duration_ms);
  const tokens = view.output_tokens ?? view.chunks;
  return time >= 200 && tokens > 1 ? (1000 * tokens) / time : null;
}

function outcome(view) {
  const ended = view.code ?? view.ended ?? "";
  if (view.code !== undefined || ended === "failed" || ended === "cut") return [ended, "bad"];
  return [ended, ended === "completed" || ended === "background" ? "good" : "warn"];
}

const phase = (view) => (view.chunks > 0 ? "answers" : view.upstream === undefined ? "waits for a server" : "reads the prompt");
const place = (label) => label?.replace(/^http:\/\//, "");
const sender = (view) => [view.key, view.client].filter(Boolean).join(" · ");
const tokens = (view) =>
  view.input_tokens === undefined ? "" : `${count(view.input_tokens)} (${count(view.cached_tokens)}) → ${count(view.output_tokens)}`;

// ---------------------------------------------------------------- tables

/** A table whose rows stay the same elements as long as their keys are there. */
class Table {
  constructor(element, columns, key, empty) {
    this.columns = columns;
    this.key = key;
    this.rows = new Map();
    const head = element.createTHead().insertRow();
    for (const column of columns) {
      const cell = document.createElement("th");
      cell.scope = "col";
      cell.textContent = column.label;
      if (column.number) cell.className = "number";
      head.append(cell);
    }
    this.body = element.createTBody();
    this.empty = document.createElement("tr");
    const cell = this.empty.insertCell();
    cell.colSpan = columns.length;
    cell.className = "empty";
    cell.textContent = empty;
    this.body.append(this.empty);
  }

  show(items) {
    const gone = new Set(this.rows.keys());
    let before = this.body.firstElementChild;
    for (const item of items) {
      const key = this.key(item);
      gone.delete(key);
      let row = this.rows.get(key);
      if (row === undefined) {
        row = document.createElement("tr");
        for (const column of this.columns) {
          const cell = row.insertCell();
          cell.dataset.label = column.label;
          if (column.number) cell.className = "number";
        }
        this.rows.set(key, row);
      }
      this.columns.forEach((column, n) => column.fill(row.cells[n], item));
      // a row that moves loses the focus
      if (row !== before) this.body.insertBefore(row, before);
      else before = before.nextElementSibling;
    }
    for (const key of gone) {
      this.rows.get(key).remove();
      this.rows.delete(key);
    }
    this.empty.hidden = items.length > 0;
  }
}

const text = (label, of, more = {}) => ({
  label,
  ...more,
  fill(cell, item) {
    const value = of(item) ?? "";
    if (cell.textContent !== value) cell.textContent = value;
  },
});

const badge = (label, of) => ({
  label,
  fill(cell, item) {
    const [value, kind] = of(item);
    let mark = cell.firstElementChild;
    if (mark === null) {
      mark = document.createElement("span");
      cell.append(mark);
    }
    if (mark.textContent !== value) mark.textContent = value;
    mark.className = `badge ${kind}`;
  },
});

const opener = {
  label: "Details",
  fill(cell, item) {
    let button = cell.firstElementChild;
    if (button === null) {
      button = document.createElement("button");
      button.textContent = "Show";
      cell.append(button);
    }
    button.setAttribute("aria-label", `Show request ${item.id}`);
    button.onclick = () => details(item);
  },
};

const tables = {
  upstreams: new Table($("upstreams"), [
    text("Server", (u) => place(u.label)),
    badge("State", (u) => (u.ready ? ["ready", "good"] : [u.reason ?? "not ready", "bad"])),
    text("Kind", (u) => [u.server, u.version].filter(Boolean).join(" ")),
    text("Models", (u) => u.models.join(", ")),
    text("Context", (u) => count(u.context), { number: true }),
    text("Slots", (u) => count(u.slots), { number: true }),
    text("In flight", (u) => count(u.in_flight), { number: true }),
  ], (u) => u.label, "No upstream server is configured or was found."),
  running: new Table($("running"), [
    text("Model", (r) => r.model ?? r.path),
    text("Sender", sender),
    text("Server", (r) => place(r.upstream)),
    text("State", phase),
    text("Waited", (r) => seconds(r.queued_ms), { number: true }),
    text("First token", (r) => seconds(r.first_token_ms), { number: true }),
    text("Tokens/s", (r) => count(rate(r)), { number: true }),
    text("Runs for", (r) => seconds(r.duration_ms), { number: true }),
    opener,
  ], (r) => r.number, "No request is running."),
  ended: new Table($("ended"), [
    text("Began", (r) => clock.format(r.began), { number: true }),
    text("Model", (r) => r.model ?? `${r.method} ${r.path}`),
    text("Sender", sender),
    text("Server", (r) => place(r.upstream)),
    badge("Outcome", outcome),
    text("First token", (r) => seconds(r.first_token_ms), { number: true }),
    text("Tokens/s", (r) => count(rate(r)), { number: true }),
    text("Tokens: in (cached) → out", tokens, { number: true }),
    text("Took", (r) => seconds(r.duration_ms), { number: true }),
    opener,
  ], (r) => r.number, "No request has ended yet, or none fits the filter."),
};

// ---------------------------------------------------------------- one request

const NAMES = {
  id: "Request id", response: "Response id", method: "Method", path: "Path", endpoint: "Endpoint", client: "Client", key: "API key", model: "Model",
  upstream: "Server", status: "HTTP status", ended: "Why it ended", code: "Error code", queued_ms: "Waited for a server", first_token_ms: "Time to first token",
  duration_ms: "Duration", chunks: "Chunks of output", input_tokens: "Tokens of the prompt", cached_tokens: "of them cached", output_tokens: "Tokens of the answer",
  reasoning_tokens: "of them reasoning",
};

function details(view) {
  const entries = [["Began", new Date(view.began).toLocaleString()]];
  for (const [name, label] of Object.entries(NAMES)) {
    const value = view[name];
    if (value === undefined || value === "") continue;
    entries.push([label, name.endsWith("_ms") ? seconds(value) : typeof value === "number" ? String(value) : value]);
  }
  $("details-list").replaceChildren(...entries.flatMap(([label, value]) => {
    const term = document.createElement("dt");
    const description = document.createElement("dd");
    term.textContent = label;
    description.textContent = value;
    return [term, description];
  }));
  $("details").showModal();
}

// ---------------------------------------------------------------- tiles

function tile(label, value, more = "") {
  const box = document.createElement("div");
  const term = document.createElement("dt");
  const description = document.createElement("dd");
  const small = document.createElement("small");
  term.textContent = label;
  description.textContent = value === "" ? "–" : value;
  small.textContent = more;
  description.append(small);
  box.append(term, description);
  return box;
}

function showTiles(state) {
  const sum = (name) => state.periods.reduce((all, period) => all + period[name], 0);
  const live = state.running.filter((view) => view.chunks > 0).map(rate).filter((value) => value !== null);
  const last = state.periods.filter((period) => period.at > state.now - 300 && period.first_token_p50 !== null);
  const median = last.map((period) => period.first_token_p50).sort((a, b) => a - b)[Math.floor(last.length / 2)];
  const worst = Math.max(...last.map((period) => period.first_token_p95));
  $("tiles").replaceChildren(
    tile("Running", count(state.running.length), `${count(state.open_streams)} streams, ${count(state.open_websockets)} WebSockets`),
    tile("Waiting", count(state.waiting), "for a free place on a server"),
    tile("Tokens a second", live.length > 0 ? count(live.reduce((all, value) => all + value, 0)) : "", "of the streams that run"),
    tile("First token", seconds(median), last.length > 0 ? `95 % within ${seconds(worst)}, last 5 min` : "last 5 min"),
    tile("Prompts cached", percent(sum("cached_tokens"), sum("input_tokens")), "last hour"),
    tile("Errors", count(sum("errors")), `of ${count(sum("requests"))} requests, last hour`),
  );
}

// ---------------------------------------------------------------- charts

const charts = [];

/** A chart of the last hour. `series`: label, colour, and the value of a period (null: none). */
function chart(id, unit, series) {
  const element = $(id);
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => {
    // uPlot draws on a canvas, which knows no light-dark()
    const probe = document.createElement("span");
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const value = getComputedStyle(probe).color;
    probe.remove();
    return value;
  };
  const axis = () => ({ stroke: colour("--quiet"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line"), width: 1 }, font: `11px ${style.fontFamily || "sans-serif"}` });
  const options = () => ({
    width: Math.max(element.clientWidth, 200),
    height: 180,
    scales: { y: { range: (_, low, high) => [0, Math.max(high ?? 1, 1)] } },
    axes: [
      { ...axis(), space: 60, values: (_, values) => values.map((value) => hourAndMinute.format(value * 1000)) },
      { ...axis(), size: 48, values: (_, values) => values.map((value) => short.format(value)) },
    ],
    series: [{ value: (_, at) => (at === null ? "" : clock.format(at * 1000)) }, ...series.map(({ label, stroke, points }) => ({
      label, stroke: colour(stroke), width: 2, spanGaps: false, points: { show: points === true, size: 4 }, value: (_, value) => (value === null ? "" : `${number.format(value)}${unit}`),
    }))],
  });
  let plot;
  let data = [[], ...series.map(() => [])];
  const draw = () => {
    plot?.destroy();
    plot = new uPlot(options(), data, element);
  };
  new ResizeObserver(() => plot?.setSize({ width: Math.max(element.clientWidth, 200), height: 180 })).observe(element);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  charts.push((periods) => {
    data = [periods.map((period) => period.at), ...series.map(({ of }) => periods.map(of))];
    if (plot === undefined) draw();
    else plot.setData(data);
    const last = periods.findLast((period) => series.some(({ of }) => of(period)));
    const latest = series.map(({ label, of }) => `${label} ${last && of(last) !== null ? number.format(of(last)) + unit : "none"}`);
    element.setAttribute("aria-label", `Chart of the last hour; latest: ${latest.join(", ")}`);
  });
}

const PERIODS_A_MINUTE = 4;
chart("chart-tokens", "", [
  { label: "prompt, not cached", stroke: "--warn", of: (p) => PERIODS_A_MINUTE * (p.input_tokens - p.cached_tokens) },
  { label: "prompt, cached", stroke: "--good", of: (p) => PERIODS_A_MINUTE * p.cached_tokens },
  { label: "answer", stroke: "--accent", of: (p) => PERIODS_A_MINUTE * p.output_tokens },
]);
chart("chart-first", " s", [
  { label: "half", points: true, stroke: "--accent", of: (p) => (p.first_token_p50 === null ? null : p.first_token_p50 / 1000) },
  { label: "95 %", points: true, stroke: "--warn", of: (p) => (p.first_token_p95 === null ? null : p.first_token_p95 / 1000) },
]);
chart("chart-cached", " %", [
  { label: "cached", points: true, stroke: "--good", of: (p) => (p.input_tokens > 0 ? (100 * p.cached_tokens) / p.input_tokens : null) },
]);

/** Every period of the hour, also those in which nothing ended. */
function hour(state) {
  const known = new Map(state.periods.map((period) => [period.at, period]));
  const last = state.now - (state.now % 15);
  const nothing = { input_tokens: 0, cached_tokens: 0, output_tokens: 0, first_token_p50: null, first_token_p95: null };
  return Array.from({ length: 240 }, (_, n) => {
    const at = last - 15 * (239 - n);
    return known.get(at) ?? { ...nothing, at };
  });
}

// ---------------------------------------------------------------- the state

let state = null;

/** Puts what is new to what is known: a request that ended stays so, and of the hour only the last period changes. */
function merge(news) {
  if (state?.started === news.started) {
    news.ended = [...state.ended, ...news.ended].slice(-KEPT);
    const first = news.periods[0]?.at ?? Infinity;
    news.periods = [...state.periods.filter((period) => period.at < first), ...news.periods].filter((period) => period.at > news.now - 3600);
  } else if (state !== null) {
    // another process: all of its past is asked for next
    news.ended_count = 0;
    news.periods = [];
    news.ended = [];
  }
  state = news;
}

function showEnded() {
  const wanted = $("filter").value.trim().toLowerCase();
  const fits = (view) =>
    (!$("only-errors").checked || outcome(view)[1] === "bad") &&
    (wanted === "" || [view.id, view.response, view.model, view.key, view.client, view.upstream, view.ended, view.code, view.path]
      .some((value) => value?.toLowerCase().includes(wanted)));
  const found = state.ended.filter(fits).reverse();
  tables.ended.show(found.slice(0, SHOWN));
  $("more").textContent = found.length > SHOWN ? `The last ${SHOWN} of ${found.length}; the filter looks at all.` : "";
}

function show() {
  $("version").textContent = state.version;
  const ready = state.upstreams.some((upstream) => upstream.ready);
  const [words, kind] = state.draining ? ["draining", "warn"] : ready ? ["serving", "good"] : ["no server is ready", "bad"];
  const store = state.store_up ? "" : ", the store cannot be reached";
  $("status").textContent = words + store;
  $("status").className = `badge ${state.store_up ? kind : "bad"}`;
  showTiles(state);
  tables.upstreams.show(state.upstreams);
  tables.running.show(state.running);
  showEnded();
  const periods = hour(state);
  for (const update of charts) update(periods);
  showServers();
}

async function look() {
  if (document.hidden) return;
  try {
    const reply = await fetch(`/ui/state?ended=${state?.ended_count ?? 0}&from=${state?.periods.at(-1)?.at ?? 0}`, { signal: AbortSignal.timeout(5000) });
    if (!reply.ok) throw new Error(String(reply.status));
    merge(await reply.json());
    $("lost").hidden = true;
  } catch {
    $("lost").hidden = false;
    return;
  }
  show();
}

async function watch() {
  for (;;) {
    await look();
    await new Promise((done) => setTimeout(done, INTERVAL));
  }
}

$("filter").addEventListener("input", () => state && showEnded());
$("only-errors").addEventListener("change", () => state && showEnded());

// ---------------------------------------------------------------- views

const tabs = [...document.querySelectorAll("[role=tab]")];

function choose(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute("aria-controls")).hidden = !chosen;
  }
  history.replaceState(null, "", `#${tab.getAttribute("aria-controls")}`);
}

tabs.forEach((tab, n) => {
  tab.addEventListener("click", () => choose(tab));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step === undefined) return;
    const next = tabs[(n + step + tabs.length) % tabs.length];
    choose(next);
    next.focus();
  });
});
const named = tabs.find((tab) => location.hash === `#${tab.getAttribute("aria-controls")}`);
if (named !== undefined) choose(named);

// ---------------------------------------------------------------- the playground

$("plan-request").value = JSON.stringify(REQUEST, null, 2);

function showServers() {
  const select = $("plan-upstream");
  const labels = state.upstreams.map((upstream) => upstream.label);
  const shown = [...select.options].slice(1).map((option) => option.value);
  if (labels.join("\n") === shown.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...labels.map((label) => new Option(label, label)));
  select.value = labels.includes(chosen) ? chosen : "";
}

$("plan-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const upstream = $("plan-upstream").value;
  const query = upstream === "" ? "" : `?upstream=${encodeURIComponent(upstream)}`;
  $("plan-error").hidden = $("plan-answer").hidden = true;
  try {
    const reply = await fetch(`/ui/plan${query}`, { method: "POST", headers: { "Content-Type": "application/json" }, body: $("plan-request").value });
    const answer = await reply.json();
    if (!reply.ok) throw new Error(answer.error.message + (answer.error.param ? ` (${answer.error.param})` : ""));
    $("plan-head").textContent = `POST ${answer.path} to ${answer.upstream} (${answer.server})`;
    $("plan-notes").replaceChildren(...answer.notes.map(({ kind, what }) => {
      const item = document.createElement("li");
      item.textContent = `${kind}: ${what}`;
      return item;
    }));
    $("plan-body").textContent = JSON.stringify(answer.body, null, 2);
    $("plan-answer").hidden = false;
  } catch (error) {
    $("plan-error").textContent = error.message;
    $("plan-error").hidden = false;
  }
});

watch();
