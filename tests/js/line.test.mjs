import assert from "node:assert/strict";
import { test } from "node:test";
import { panel } from "./joined.mjs";

const { Line } = panel;
const pause = (/** @type {number} */ ms = 0) => new Promise((done) => setTimeout(done, ms));
globalThis.document ??= /** @type {any} */ ({ hidden: false });

/** A state of Python's side. @param {any} [more] */
const stateOf = (more = {}) => ({
  session: "a", phase: "done", controls: { temperature: 0.7 }, tables: { final: { version: 1, n: 250 } }, steps: [],
  pins: [], errors: { n: 0 }, memo: { answers: 3 }, draft: { step: "ask", prompt: "Tell {text}" }, estimate: null, ...more,
});

/** anywidget's model, and Python behind it: `answers[op](message)`, else a reply that says nothing. */
class Model {
  /** @param {Record<string, (m: any) => any>} answers */
  constructor(answers) {
    this.answers = answers;
    this.state = stateOf();
    /** @type {Map<string, ((...args: any[]) => void)[]>} */
    this.heard = new Map();
    /** @type {any[]} */
    this.sent = [];
    this.silent = false;
    const model = this;
    this.widget_manager = { kernel: { connectionStatusChanged: {
      connect: (/** @type {any} */ f) => (model.connection = f), disconnect() {},
    } } };
  }

  get() {
    return this.state;
  }

  /** @param {string} name @param {(...args: any[]) => void} f */
  on(name, f) {
    this.heard.set(name, [...(this.heard.get(name) ?? []), f]);
  }

  off() {}

  /** @param {string} name @param {any[]} args */
  fire(name, ...args) {
    for (const f of this.heard.get(name) ?? []) f(...args);
  }

  /** @param {any} m */
  async send(m) {
    this.sent.push(m);
    if (this.silent) return;
    const said = await this.answers[m.op]?.(m);
    this.fire("msg:custom", { id: m.id, ok: true, ...said });
  }

  /** @param {any} state */
  push(state) {
    this.state = state;
    this.fire("change:state");
  }

  /** @param {string} op */
  of(op) {
    return this.sent.filter((m) => m.op === op);
  }
}

/** @param {Record<string, (m: any) => any>} answers @param {(line: any, model: Model) => Promise<void>} work */
async function withLine(answers, work) {
  const model = new Model(answers);
  const line = new Line(model);
  try {
    await work(line, model);
  } finally {
    line.close();
  }
}

const windows = {
  window: (/** @type {any} */ m) => ({ start: m.start, n: 250, version: 1,
    rows: Array.from({ length: m.n }, (_, k) => ({ i: m.start + k, v: ["x"] })) }),
  columns: () => ({ columns: [{ name: "x", kind: "text" }], version: 1 }),
  poll: () => ({ state: stateOf() }),
};

test("after a short disconnection every row comes, and no old error stays", () => withLine(windows, async (line, model) => {
  line.table.check();
  await pause(10);
  line.table.want(0, 20);
  await pause(10);
  assert.ok(line.table.row(5));
  model.silent = true;
  line.table.want(200, 220);
  model.connection(null, "disconnected");
  await pause(10);
  assert.match(line.lost, /disconnected/);
  model.silent = false;
  model.connection(null, "connected");
  await pause(20);
  assert.equal(line.lost, "");
  line.table.want(200, 220);
  await pause(20);
  assert.equal(line.table.error, "");
  assert.equal(line.table.row(205)?.i, 205);
}));

test("a control that is refused shows what Python has, and the run behind it is not sent", () => withLine({
  set: () => ({ ok: false, error: "temperature is a number from 0 to 5, not 7" }),
}, async (line, model) => {
  line.setControls({ temperature: 7 });
  const said = await line.spend("run");
  assert.equal(said.ok, false);
  assert.deepEqual(model.of("run"), []);
  assert.match(line.error, /not 7/);
  assert.equal(line.state.controls.temperature, 0.7);
  assert.equal(line.isBusy, false);
  await line.spend("run");
  assert.equal(model.of("run").length, 1, "as the panel shows it now");
}));

test("an edit that is refused holds back the run, and the one that is readable lets it go", () => withLine({
  draft: (m) => (m.prompt?.includes("{ ") ? { ok: false, error: "'{' opens no field" } : { unknown: [], rendered: "" }),
}, async (line, model) => {
  line.editDraft({ prompt: "Tell { half" });
  await line.spend("run");
  assert.deepEqual(model.of("run"), []);
  assert.match(line.error, /opens no field/);
  line.editDraft({ prompt: "Tell { half of" });
  await pause(300); // it was sent, and refused, before the click
  for (const op of ["run", "run_one", "draft_run"]) await line.spend(op);
  assert.deepEqual(model.of("run"), []);
  assert.deepEqual(model.of("draft_run"), []);
  await line.sendDraft({ step: "ask" }); // only looked at: the edit is no better for it
  assert.match(line.unread, /opens no field/);
  line.editDraft({ prompt: "Tell {text}" });
  await line.spend("run");
  assert.equal(model.of("run").length, 1);
  assert.deepEqual(model.sent.slice(-2).map((m) => m.op), ["draft", "run"]);
}));

test("a refused edit of one step is not held against another", () => withLine({
  draft: () => ({ ok: false, error: "'{' opens no field" }),
}, async (line, model) => {
  line.editDraft({ prompt: "Tell { half" });
  await line.spend("run");
  assert.match(line.unread, /opens no field/);
  model.push(stateOf({ draft: { step: "judge", prompt: "How good is {answer}?" } }));
  assert.equal(line.unread, "", "its prompt is shown, and can be run");
}));

test("a click that waits for the controls and is stopped sends nothing", () => withLine({
  set: () => pause(60),
}, async (line, model) => {
  line.setControls({ temperature: 0.1 });
  const said = line.spend("run");
  await pause(5);
  assert.equal(line.canStop, true);
  void line.stop();
  assert.equal(await said, null);
  assert.deepEqual(model.of("run"), []);
  assert.equal(line.isBusy, false);
}));

test("a bill that takes long to write is shown all the same", () => withLine({
  cost: () => pause(1_300).then(() => ({ lines: [1] })),
}, async (line, model) => {
  for (let k = 0; k < 16; k++) {
    model.push(stateOf({ phase: "running", k }));
    line.side("cost");
    await pause(100);
  }
  assert.deepEqual(line.side("cost").data?.lines, [1]);
  assert.ok(model.of("cost").length <= 2);
}));
