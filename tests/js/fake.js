// A stand-in for the panel's Python side: answers the protocol from made-up data.

const STEPS = ["articles", "long_enough", "ask", "judge", "keep_good"];
const TOPICS = ["Biology", "Physics", "History", "Astronomy", "Chemistry"];
const QUESTIONS = [
  "Why do octopuses prefer crawling to swimming?",
  "What does the refractive index of a material compare?",
  "Which goods did the Hanseatic League mainly trade?",
  "Why is a day on Venus longer than its year?",
  "How much of the world's fresh surface water does Lake Baikal hold?",
];
/** Texts that a page must show and not obey. */
export const HOSTILE = [
  '<img src=x onerror="window.hacked = true"><b>bold</b>',
  "</script><script>window.hacked = true</script>",
  "left \u202eright to left\u202c and \u2066isolated\u2069",
  "\u001b[31mred\u001b[0m and a bell\u0007",
  "half of a pair: \ud83d, a whole one: \ud83d\ude00",
  "שלום עולם, مرحبا, 日本語, $1 and $2",
  "a\u0000b\r\nc\td",
];

/** @param {number} i @param {number} n a number in 0 … n−1 that looks random */
const shuffled = (i, n) => Number((BigInt(i) * 2654435761n + 40503n) % BigInt(n));

/** @typedef {Record<string, any>} Json */

/** @param {Json} [change] */
export function firstState(change = {}) {
  return {
    title: "keep_good", kind: "pipeline", session: "s1", phase: "idle", what: "", said: "35 records to look at.", error: null,
    controls: {
      limit: 100, limit_max: 868, record: 7, n_records: 868, models: ["gpt-4o-mini", "gpt-4o"], model: "gpt-4o-mini", temperature: 0.7,
      n: 1, budget: 0.5, concurrency: 16, step: "ask", llm_steps: ["ask", "judge"],
    },
    estimate: {
      records: 100, calls: 200, new: 124, memo: 76, low: 0.0071, likely: 0.0089, high: 0.012, seconds: 9, exact: false,
      text: "124 new · 76 in the memo · $0.0089 ($0.0071–0.012) · 9.0 s", notes: [],
    },
    progress: null,
    memo: { answers: 1204, saved: 0.87, paid_today: 0.31, budget_today: 5 },
    steps: STEPS.map((name, k) => ({
      name, kind: ["source", "Filter", "llm", "llm", "Filter"][k], n_in: 100, n_out: 35, new: 3, memo: 32, failed: k === 2 ? 1 : 0, filtered: 3, live: false,
    })),
    tables: Object.fromEntries([...STEPS, "final"].map((s) => [s, { version: 1, n: 35 }])),
    focus: null, pins: [], errors: { n: 0 }, stale: "",
    draft: {
      step: "ask", prompt: "Article (topic: {topic}):\n{text}\n\nWrite a question a curious reader would ask, and answer it in one or two sentences.",
      system: "You write one question and its answer from a short article. Use only the article.", model: "gpt-4o-mini", temperature: 0.7, unknown: [], changed: false,
    },
    waiting: false, poll: false,
    ...change,
  };
}

/** What anywidget hands to `render`, with Python behind it. */
export class FakeModel {
  /** @param {Json} [options] rows, state, hostile, latency (ms), silent (answers nothing), kernel */
  constructor(options = {}) {
    /** @type {Json} */
    this.options = { rows: 35, latency: 5, silent: false, hostile: false, ...options };
    const n = this.options.rows;
    /** @type {Json} */
    this.state = firstState();
    for (const table of Object.values(this.state.tables)) table.n = n;
    this.state.said = `${n.toLocaleString("en-US")} records to look at.`;
    if (this.options.hostile) this.state.title = HOSTILE[0];
    Object.assign(this.state, this.options.state);
    this.widget_manager = this.options.kernel ? { kernel: this.options.kernel } : undefined;
    /** @type {Map<string, Set<(...args: any[]) => void>>} */
    this.heard = new Map();
    /** @type {Json[]} */
    this.sent = [];
    /** @type {Json[]} */
    this.held = [];
    /** @type {Map<number, number[]>} */
    this.views = new Map();
    this.nextView = 1;
    this.runs = 0;
    this.paidCalls = 0;
    /** @type {any} */
    this.timer = null;
    /** What is not as the protocol has it by default; op → reply. @type {Record<string, (message: Json) => Json>} */
    this.replies = {};
  }

  /** @param {string} name */
  get(name) {
    return name === "state" ? this.state : undefined;
  }

  /** @param {string} name @param {(...args: any[]) => void} heard */
  on(name, heard) {
    if (!this.heard.has(name)) this.heard.set(name, new Set());
    this.heard.get(name)?.add(heard);
  }

  /** @param {string} name @param {(...args: any[]) => void} heard */
  off(name, heard) {
    this.heard.get(name)?.delete(heard);
  }

  /** @param {string} name @param {...any} args */
  trigger(name, ...args) {
    for (const heard of [...(this.heard.get(name) ?? [])]) heard(...args);
  }

  get listeners() {
    return [...this.heard.values()].reduce((n, set) => n + set.size, 0);
  }

  /** @param {Json} change */
  push(change) {
    this.state = structuredClone({ ...this.state, ...change });
    this.trigger("change:state");
  }

  /** Requests of a kind. @param {string} op */
  asked(op) {
    return this.sent.filter((m) => m.op === op);
  }

  /** @param {Json} message */
  send(message) {
    const sent = JSON.parse(JSON.stringify(message));
    this.sent.push(sent);
    if (this.options.silent) this.held.push(sent);
    else setTimeout(() => this.answer(sent), this.options.latency);
  }

  /** The kernel is free again: everything held is answered. */
  release() {
    this.options.silent = false;
    for (const message of this.held.splice(0)) this.answer(message);
  }

  /** @param {Json} message */
  answer(message) {
    const special = this.replies[message.op];
    const ours = /** @type {any} */ (this)[`on_${message.op}`];
    let said;
    try {
      said = special ? special(message) : ours ? ours.call(this, message) : { ok: false, error: `no request ${message.op}` };
    } catch (error) {
      said = { ok: false, error: String(error) };
    }
    this.trigger("msg:custom", { id: message.id, ok: true, ...said }, []);
  }

  // Tables.

  /** @param {number} i */
  status(i) {
    return i >= this.options.rows ? "failed" : shuffled(i, 3) === 0 ? "new" : "memo";
  }

  /** @param {number} i @param {number} c */
  value(i, c) {
    if (this.options.hostile) return HOSTILE[(i + c) % HOSTILE.length];
    if (c === 0) return TOPICS[i % 5];
    if (c === 1) return `Text ${i}: the systemic heart stops beating when the animal swims, which is one reason octopuses prefer to crawl.`;
    if (c === 2) return QUESTIONS[i % 5];
    return String(shuffled(i, 1_000_003) % 1_000);
  }

  /** @param {number} i */
  row(i) {
    const s = this.status(i);
    const v = [0, 1, 2, 3].map((c) => this.value(i, c));
    if (s === "failed") return { i, s, v: [v[0], v[1], "", ""], usd: null, sec: null, why: "no field 'answer' in the reply: asked twice" };
    return { i, s, v, usd: s === "new" ? 0.00018 : 0, sec: 0.4 + shuffled(i, 100) / 90, why: null };
  }

  /** @param {Json} m */
  on_window({ start, n, view, step }) {
    const table = this.state.tables[step];
    const rows = view == null ? null : this.views.get(view);
    if (view != null && !rows) return { ok: false, error: "this view is gone: the table has changed" };
    const total = rows ? rows.length : table.n;
    const most = Math.min(n, this.options.piece ?? n, total - start);
    return {
      start, n: total, version: table.version,
      rows: Array.from({ length: Math.max(0, most) }, (_, k) => this.row(rows ? rows[start + k] : start + k)),
    };
  }

  /** @param {Json} m */
  on_view({ step, search, status, where, sort }) {
    const table = this.state.tables[step];
    const failed = this.state.errors.n;
    let rows = status === "failed" ? Array.from({ length: failed }, (_, k) => table.n + k) : Array.from({ length: table.n }, (_, k) => k);
    if (status === "new" || status === "memo") rows = rows.filter((i) => this.status(i) === status);
    if (search) rows = rows.filter((i) => [0, 1, 2].some((c) => this.value(i, c).toLowerCase().includes(search.toLowerCase())));
    const names = ["topic", "text", "question", "score"];
    for (const w of where) {
      const c = names.indexOf(w.column);
      rows = rows.filter((i) => (w.op === ">=" ? Number(this.value(i, c)) >= w.value : String(this.value(i, c)) === String(w.value)));
    }
    let code = search ? `df[has_text(df, ${JSON.stringify(search)})]` : "df";
    for (const s of [...sort].reverse()) {
      const c = names.indexOf(s.column);
      const keys = new Map(rows.map((i) => [i, c === 3 ? Number(this.value(i, c)) : this.value(i, c)]));
      const sign = s.descending ? -1 : 1;
      rows.sort((a, b) => {
        const [x, y] = [/** @type {any} */ (keys.get(a)), /** @type {any} */ (keys.get(b))];
        return x < y ? -sign : x > y ? sign : a - b;
      });
    }
    if (sort.length) code += `.sort_values("${sort[0].column}", ascending=${sort[0].descending ? "False" : "True"}, kind="stable")`;
    this.views.set(this.nextView, rows);
    return { view: this.nextView++, n: rows.length, code, version: table.version };
  }

  /** @param {Json} m */
  on_columns({ step }) {
    const { n, version } = this.state.tables[step];
    const sampled = n > 20_000 ? 20_000 : null;
    const kinds = ["category", "text", "text", "number"];
    return {
      version, columns: ["topic", "text", this.options.hostile ? HOSTILE[0] : "question", "score"].map((name, k) => ({
        name, kind: kinds[k], nulls: k === 3 ? 0.04 : 0, distinct: k === 0 ? 5 : null, bars: [[1, 0.6, 0.6, 0.4, 0.2], [0.4, 0.8, 1, 0.6, 0.2], [0.6, 1, 0.8, 0.2], [0.2, 0.5, 1, 0.8, 0.3]][k],
        words: ["Biology 20 %", "38 to 112 characters", "30 to 66 characters", "0 to 999, median 498"][k], sampled,
      })),
    };
  }

  // Records.

  /** @param {Json} m */
  on_record({ step, row }) {
    const i = row ?? this.state.controls.record;
    const [topic, text, question] = [0, 1, 2].map((c) => this.value(i, c));
    const isFailed = row != null && row >= this.options.rows;
    const call = {
      key: "3f9c21ab77", label: "0", model: "gpt-4o-mini, temperature 0.7", status: isFailed ? "failed" : this.status(i), verdict: "good",
      messages: [{ role: "system", content: this.state.draft.system }, { role: "user", content: this.state.draft.prompt.replace("{topic}", topic).replace("{text}", text) }],
      text: isFailed ? '{"question": "Why?"}' : JSON.stringify({ question, answer: text }), fields: isFailed ? null : { question, answer: text }, tokens_in: 398, tokens_out: 88, usd: 0.00012,
      seconds: 0.86, attempts: 1, asked_at: 1_763_000_000, request: JSON.stringify({ model: "gpt-4o-mini", temperature: 0.7 }, null, 2),
      error: isFailed ? "no field 'answer' in the reply" : null, remedy: isFailed ? "Ask again, or name the field in the prompt" : "", earlier: [],
    };
    const source = { topic, text: this.options.long ? "x".repeat(this.options.long) : text };
    const made = { question, answer: text };
    return {
      title: `record ${i} of ${step}`, lineage: [
        { step: "articles", kind: "source", fate: "read", note: "", values: source, added: [], calls: [] },
        { step: "long_enough", kind: "Filter", fate: "kept", note: "58 words", values: source, added: [], calls: [] },
        { step: "ask", kind: "llm", fate: isFailed ? "failed" : "advanced", note: "", values: isFailed ? source : { ...source, ...made }, added: isFailed ? [] : ["question", "answer"], calls: [call] },
      ],
    };
  }

  /** @param {Json} m */
  on_cell({ row }) {
    return { text: `whole text of ${row}` };
  }

  on_cost() {
    const line = { step: "ask", model: "gpt-4o-mini", calls: 52, new: 21, memo: 31, failed: 1, tokens_in: 8700, tokens_out: 1900, paid: 0.0024, saved: 0.0036, wasted: 0.00023, estimated: 0.0028 };
    const judge = { ...line, step: "judge", new: 16, memo: 28, failed: 0, tokens_in: 4900, tokens_out: 420, paid: 0.00098, saved: 0.0017, wasted: 0, estimated: 0.00081 };
    return { lines: [line, judge], total: { ...line, step: "", new: 37, memo: 59, tokens_in: 13_600, tokens_out: 2320, paid: 0.0034, saved: 0.0053, estimated: 0.0036 }, note: "list prices of gpt-4o-mini, genai-prices 0.2.3" };
  }

  on_graph() {
    const nodes = STEPS.map((name, k) => ({ id: name, name: this.options.hostile ? HOSTILE[k] : name, kind: this.state.steps[k].kind, badge: k ? "100 → 35 · 3 filtered" : "100 read", x: k * 190, y: 10, w: 160, h: 44 }));
    const edges = nodes.slice(1).map((n, k) => ({ from: nodes[k].id, to: n.id, points: [[nodes[k].x + 160, 32], [n.x, 32]], label: "" }));
    return { nodes, edges, width: 4 * 190 + 160, height: 64 };
  }

  on_errors() {
    const { n } = this.state.errors;
    const group = {
      kind: "bad_schema", step: "ask", n, cause: "the reply lacks a field", example: this.options.hostile ? HOSTILE[0] : '{"question": "Why can two violins be told apart?"}',
      input: "topic Music, text The timbre of a violin …", what_to_do: "Name the field in the prompt. Retry asks again.", asks_again: true, rows: [this.options.rows],
    };
    return { groups: n ? [group] : [] };
  }

  /** @param {Json} m */
  on_code({ what }) {
    return { code: `# ${what}\nresult = pipeline.run(limit=100)` };
  }

  /** @param {Json} m */
  on_draft(m) {
    const draft = { ...this.state.draft };
    for (const name of ["prompt", "system"]) if (name in m) draft[name] = m[name];
    const fields = [...draft.prompt.matchAll(/\{(\w+)\}/g)].map((f) => f[1]);
    draft.unknown = fields.filter((f) => !["topic", "text"].includes(f));
    draft.changed = draft.changed || "prompt" in m || "system" in m;
    this.push({ draft });
    const rendered = `[system]\n${draft.system}\n\n[user]\n${draft.prompt.replace("{topic}", this.value(7, 0)).replace("{text}", this.value(7, 1))}`;
    return { unknown: draft.unknown, rendered: draft.unknown.length ? "" : rendered, estimate: this.state.estimate };
  }

  on_draft_drop() {
    this.push({ draft: firstState().draft });
    return {};
  }

  /** @param {Json} m */
  on_pin({ row, on }) {
    const pins = this.state.pins.filter((/** @type {number} */ p) => p !== row);
    if (on) pins.push(row);
    this.push({ pins });
    return { pins };
  }

  on_select() {
    return {};
  }

  on_freeze() {
    return {};
  }

  on_poll() {
    return { state: structuredClone(this.state) };
  }

  // Runs.

  /** @param {Json} m */
  on_set({ controls }) {
    const limit = controls.limit === undefined ? this.state.controls.limit : controls.limit;
    const likely = (limit ?? 868) * 0.000089;
    setTimeout(() => this.push({ estimate: { ...this.state.estimate, records: limit, likely, text: `about ${limit ?? 868} records` } }), 30);
    this.push({ controls: { ...this.state.controls, ...controls } });
    return {};
  }

  get isBusy() {
    return ["queued", "running", "stopping"].includes(this.state.phase);
  }

  /** @param {Json} m */
  on_run(m) {
    if (this.isBusy) return { busy: true };
    if (this.options.asks && !m.confirmed) return { ask: "124 new calls cost about $120 and there is no budget." };
    const total = this.options.calls ?? 100;
    this.runs++;
    this.push({ phase: "running", what: "run", said: `Running: 0 of ${total} calls.`, progress: this.progress(0, total), error: null });
    this.timer = setInterval(() => {
      const done = Math.min(total, this.state.progress.done + (this.options.speed ?? 4));
      const ends = done >= total;
      const tables = ends ? this.newer(this.state.progress.total) : this.state.tables;
      this.push({ progress: this.progress(done, total), phase: ends ? "done" : "running", said: ends ? `Done: ${total} records.` : `Running: ${done} of ${total} calls.`, tables });
      if (ends) clearInterval(this.timer);
    }, 60);
    return {};
  }

  /** @param {number} done @param {number} total */
  progress(done, total) {
    const failed = Math.floor(done / 50);
    const memo = Math.round((done - failed) * 0.6);
    const line = { step: "ask", total, done, memo, new: done - failed - memo, failed };
    this.paidCalls = line.new;
    return { lines: [line], ...line, paid: line.new * 0.00018, in_flight: 8, budget: this.state.controls.budget, rate: 11, eta: (total - done) / 11 };
  }

  /** @param {number} n */
  newer(n) {
    this.options.rows = n;
    this.views.clear();
    return Object.fromEntries(Object.entries(this.state.tables).map(([s, t]) => [s, { version: t.version + 1, n }]));
  }

  on_stop() {
    if (!this.isBusy) return { stopping: false };
    clearInterval(this.timer);
    this.push({ phase: "stopping", said: "Stopping: calls in flight come in." });
    setTimeout(() => this.push({ phase: "stopped", said: "Stopped: 20 records finished, every answer that arrived is kept." }), 150);
    return { stopping: true };
  }

  /** @param {Json} m */
  on_run_one({ record }) {
    if (this.isBusy) return { busy: true };
    this.runs++;
    this.push({ phase: "running", what: "run_one", said: "Running.", progress: this.progress(0, 2) });
    setTimeout(() => this.push({
      phase: "done", said: "Done: 1 record.", progress: this.progress(2, 2), tables: this.newer(this.options.rows),
      focus: { step: "final", row: Math.min(record, this.options.rows - 1), version: this.state.tables.final.version + 1 },
    }), 120);
    return {};
  }

  on_draft_run() {
    if (this.isBusy) return { busy: true };
    this.runs++;
    this.push({ phase: "running", what: "draft_run", said: "Running.", progress: this.progress(0, 2) });
    setTimeout(() => this.push({ phase: "done", said: "Done: 1 record.", focus: { step: "final", row: 2, version: ++this.nextView } }), 120);
    return {};
  }

  /** @param {Json} m */
  on_retry_failed(m) {
    const said = this.on_run(m);
    this.push({ errors: { n: 0 } });
    return said;
  }

  /** @param {Json} m */
  on_retry(m) {
    return this.on_run(m);
  }
}

/** A kernel as JupyterLab has it, as far as the panel looks. */
export function fakeKernel() {
  /** @type {Record<string, Set<(sender: any, status: any) => void>>} */
  const slots = { statusChanged: new Set(), connectionStatusChanged: new Set(), disposed: new Set() };
  const signal = (/** @type {string} */ name) => ({
    connect: (/** @type {any} */ slot) => slots[name].add(slot), disconnect: (/** @type {any} */ slot) => slots[name].delete(slot),
  });
  return {
    interrupts: 0, slots, statusChanged: signal("statusChanged"), connectionStatusChanged: signal("connectionStatusChanged"), disposed: signal("disposed"),
    async interrupt() {
      this.interrupts++;
    },
    /** @param {string} name @param {string} status */
    emit(name, status) {
      for (const slot of slots[name]) slot(this, status);
    },
  };
}
