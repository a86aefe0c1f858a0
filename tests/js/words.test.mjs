import assert from "node:assert/strict";
import { test } from "node:test";
import { panel } from "./joined.mjs";

test("dollars have two significant digits and no exponent", () => {
  const said = [null, NaN, Infinity, 0, 1e-13, 0.000061, 0.0015, 0.0999, 0.15, 0.27, 0.999, 1.2, 9.96, 12.4, 99.4, 99.6, 1234.5, -0.5].map(panel.usd);
  assert.deepEqual(said, ["unknown", "unknown", "unknown", "$0", "$0", "$0.000061", "$0.0015", "$0.10", "$0.15", "$0.27", "$1.0", "$1.2", "$10", "$12", "$99", "$100", "$1,235", "−$0.50"]);
});

test("a limit is written as it was typed", () => {
  assert.deepEqual([5, 0.25, 0.015, 1234.5, 0.1 + 0.2].map(panel.limitUsd), ["$5.00", "$0.25", "$0.015", "$1,234.50", "$0.30"]);
});

test("large numbers have 2 to 3 digits, durations their unit", () => {
  assert.deepEqual([790, 999.6, 1700, 621_000, 1.2e6, 9.96e6, 3.4e9, null].map(panel.amount), ["790", "1.0k", "1.7k", "621k", "1.2M", "10M", "3.4G", "unknown"]);
  assert.deepEqual([0, 0.001, 0.84, 9.2, 12.3, 59.6, 80, 120, 7500, 7200, null].map(panel.seconds), ["0 s", "< 0.01 s", "0.84 s", "9.2 s", "12 s", "1 min", "1 min 20 s", "2 min", "2 h 5 min", "2 h", "unknown"]);
  assert.deepEqual([panel.count(1732), panel.count(null), panel.plural(1, "call"), panel.plural(40, "call")], ["1,732", "unknown", "1 call", "40 calls"]);
});

test("control characters, marks of direction and halves of pairs are shown, other scripts stay", () => {
  assert.equal(panel.visible("a\x1b[31mb\x00\u202ec\ud800 😀 日本 שלום\t\n"), "a\\x1b[31mb\\x00\\u202ec\\ud800 😀 日本 שלום\t\n");
  assert.equal(panel.visible("\r\u2028\u2066\x7f"), "\\x0d\\u2028\\u2066\\u007f");
});

test("a text is cut between characters", () => {
  assert.deepEqual(panel.clip("abcdef", 4), ["abcd", 2]);
  assert.deepEqual(panel.clip("abc😀", 4), ["abc", 2]);
  assert.deepEqual(panel.clip("abcd", 4), ["abcd", 0]);
});

test("typed numbers may have a dollar and commas; words are no numbers", () => {
  assert.deepEqual(["$0.50", "1,000", "$1,234,567.5", "", " all ", "abc", "1e3", "-2"].map(panel.typed), [0.5, 1000, 1234567.5, null, null, undefined, 1000, -2]);
  assert.deepEqual(["0,50", "1,5", "1,00", ",5", "1,0000"].map(panel.typed), Array(5).fill(undefined), "a decimal comma is not taken for a thousand");
});

test("the theme is what the host says first", () => {
  const dark = [
    { vscode: "vscode-dark" }, { vscode: "vscode-high-contrast" }, { jupyter: "false" }, { colab: "dark" }, { luma: 0.9 }, { luma: null, system: true },
    { jupyter: "false", luma: 0.1, system: false },
  ];
  const light = [{ vscode: "vscode-light" }, { vscode: "vscode-high-contrast-light" }, { jupyter: "true", system: true }, { luma: 0.1, system: true }, {}];
  assert.ok(dark.every((seen) => panel.themeOf(seen) === "dark"));
  assert.ok(light.every((seen) => panel.themeOf(seen) === "light"));
  assert.ok(panel.lumaOf("rgb(255, 255, 255)") > 0.99);
  assert.equal(panel.lumaOf("rgba(0, 0, 0, 0)"), null);
});

test("fields of a prompt; doubled braces are braces", () => {
  assert.deepEqual(panel.fieldsOf("{topic} {{json}} {text}{topic} { a }"), ["topic", "text", "a"]);
  assert.deepEqual(panel.fieldsOf("nothing {} here"), []);
});

const state = (change = {}) => ({
  phase: "running", said: "Running.", error: null, progress: { total: 100, done: 0, failed: 0 },
  controls: { limit: 100, n_records: 868 }, estimate: { new: 10, likely: 0.0089, exact: false }, ...change,
});

test("the live region hears the start, each 10 %, failures, the end and errors, and nothing else", () => {
  const at = (/** @type {number} */ done, failed = 0) => state({ progress: { total: 100, done, failed } });
  assert.equal(panel.announce(null, state()), "");
  assert.equal(panel.announce(state({ phase: "idle" }), state({ said: "Running: 0 of 100 calls." })), "Running: 0 of 100 calls.");
  assert.equal(panel.announce(at(1), at(9)), "");
  assert.equal(panel.announce(at(9), at(10)), "10 percent: 10 of 100 calls.");
  assert.equal(panel.announce(at(10), at(41, 2)), "40 percent: 41 of 100 calls, 2 failed.");
  assert.equal(panel.announce(at(41), at(42, 1)), "1 failed.");
  assert.equal(panel.announce(at(42), state({ phase: "stopped", said: "Stopped: 20 records." })), "Stopped: 20 records.");
  const error = { title: "No key", text: "set OPENAI_API_KEY" };
  assert.equal(panel.announce(at(1), state({ phase: "failed", said: "Failed.", error })), "Failed. No key: set OPENAI_API_KEY");
  let heard = 0;
  for (let done = 1; done <= 100; done++) heard += panel.announce(at(done - 1), at(done)) ? 1 : 0;
  assert.equal(heard, 10);
});

test("the parts of the bar are never more than the bar", () => {
  assert.deepEqual(panel.barParts(null), { memo: 0, new: 0, failed: 0 });
  assert.deepEqual(panel.barParts({ total: 200, done: 51, memo: 31, new: 19, failed: 1 }), { memo: 15.5, new: 9.5, failed: 0.5 });
  const odd = panel.barParts({ total: 10, done: 30, memo: 20, new: 20, failed: 20 });
  assert.ok(odd.memo + odd.new + odd.failed <= 100.0001);
});

test("the Run button names the records and the price", () => {
  assert.equal(panel.runLabel(state()), "Run 100 · about $0.0089");
  assert.equal(panel.runLabel(state(), true), "Run 100 · …");
  assert.equal(panel.runLabel(state({ estimate: null })), "Run 100 · …");
  assert.equal(panel.runLabel(state({ estimate: { new: 0, likely: 0, exact: true } })), "Run 100 · no new call");
  assert.equal(panel.runLabel(state({ estimate: { new: 5, likely: null } })), "Run 100 · price unknown");
  assert.equal(panel.runLabel(state({ estimate: { new: null, likely: null } })), "Run 100");
  assert.equal(panel.runLabel(state({ controls: { limit: null, n_records: 868 } })), "Run 868 · about $0.0089");
  assert.equal(panel.runLabel(state({ controls: { limit: null, n_records: null } })), "Run all · about $0.0089");
  assert.equal(panel.runLabel(state({ controls: { limit: 1000, n_records: 868 } })), "Run 868 · about $0.0089");
  assert.equal(panel.runLabel(state({ estimate: { new: 1, likely: 0.5, exact: true } })), "Run 100 · $0.50");
});

test("only a cell of ours is interrupted, and only where no answer came", () => {
  const at = (change = {}) => panel.stopStep({ acked: false, ms: 1000, waiting: true, canInterrupt: true, ...change });
  assert.deepEqual([at(), at({ acked: true }), at({ ms: 999 }), at({ waiting: false }), at({ canInterrupt: false })], ["interrupt", "acked", "wait", "words", "words"]);
});
