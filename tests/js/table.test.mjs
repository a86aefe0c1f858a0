import assert from "node:assert/strict";
import { test } from "node:test";
import { panel } from "./joined.mjs";

const { ROW_PX, WINDOW, KEPT, MAX_PX, MAX_DOM_ROWS, WindowCache } = panel;
/** @param {number} start @param {number} n */
const rows = (start, n) => Array.from({ length: n }, (_, k) => ({ i: start + k }));

test("up to 1.3 million rows the scrollbar is true", () => {
  const map = panel.scrollMap(1_300_000, 300);
  assert.equal(map.scaled, false);
  assert.equal(map.height, 1_300_000 * ROW_PX);
  assert.equal(map.toTable(12_345), 12_345);
  assert.equal(map.toTable(1e12), map.end);
});

test("above, both ends are reached and every row between, for any number of rows", () => {
  for (const n of [1_300_001, 2_000_000, 50_000_000, 1e9]) {
    const map = panel.scrollMap(n, 317);
    assert.ok(map.scaled && map.height === MAX_PX);
    assert.equal(map.toTable(0), 0);
    assert.ok(Math.abs(map.toTable(map.height - 317) - map.end) < 1e-6 * map.end);
    for (const top of [0, 24, map.end / 3, map.end - 24, map.end]) {
      assert.ok(Math.abs(map.toTable(map.toBar(top)) - top) <= 1e-9 * map.end + 0.001);
    }
  }
});

test("a small table has nothing to scroll", () => {
  const map = panel.scrollMap(3, 300);
  assert.deepEqual([map.end, map.toTable(50), map.toBar(0)], [0, 0, 0]);
  assert.equal(panel.scrollMap(0, 0).height, 0);
});

test("all rows in sight are drawn and never more than 60", () => {
  for (const viewport of [0, 24, 300, 1200, 5000]) {
    for (const n of [0, 1, 35, 1_000_000]) {
      for (const top of [0, 13, 24, n * ROW_PX - viewport].filter((t) => t >= 0)) {
        const [first, last] = panel.rowsInSight(top, viewport, n);
        assert.ok(first >= 0 && last <= n && last - first <= MAX_DOM_ROWS);
        const needed = Math.min(n, Math.ceil((top + viewport) / ROW_PX));
        if (viewport <= 1200 && n) assert.ok(first <= top / ROW_PX && last >= needed, `${viewport} ${n} ${top}: ${first}-${last}`);
      }
    }
  }
});

test("the last 20 windows are kept, the one used longest ago goes first", () => {
  const cache = new WindowCache();
  for (let w = 0; w < KEPT; w++) cache.put(w * WINDOW, rows(w * WINDOW, WINDOW));
  cache.touch(0);
  cache.put(KEPT * WINDOW, rows(KEPT * WINDOW, WINDOW));
  assert.equal(cache.windows.size, KEPT);
  assert.equal(cache.row(5).i, 5);
  assert.equal(cache.row(WINDOW + 5), undefined);
  assert.equal(cache.row(KEPT * WINDOW + 99).i, KEPT * WINDOW + 99);
});

test("a window may come in pieces, and the last one is short", () => {
  const cache = new WindowCache();
  assert.deepEqual(cache.rest(2, 250), { start: 200, n: 50 });
  cache.put(200, rows(200, 30));
  assert.deepEqual(cache.rest(2, 250), { start: 230, n: 20 });
  cache.put(230, rows(230, 20));
  assert.equal(cache.rest(2, 250), null);
  assert.equal(cache.row(249).i, 249);
});

test("windows in sight are read first, then one on each side", () => {
  assert.deepEqual(panel.windowsFor(0, 20, 35), [0]);
  assert.deepEqual(panel.windowsFor(0, 20, 1000), [0, 1]);
  assert.deepEqual(panel.windowsFor(195, 215, 1000), [1, 2, 3, 0]);
  assert.deepEqual(panel.windowsFor(990, 1000, 1000), [9, 8]);
  assert.deepEqual(panel.windowsFor(0, 0, 0), []);
});

test("keys move in the grid and stop at its edges; a step up from the first row is the header", () => {
  const size = { rows: 100, cols: 8, page: 10 };
  const go = (/** @type {number} */ row, /** @type {number} */ col, /** @type {string} */ key, far = false) => {
    const at = panel.gridMove({ row, col }, key, { ...size, far });
    return at && [at.row, at.col];
  };
  assert.deepEqual(go(5, 3, "ArrowDown"), [6, 3]);
  assert.deepEqual(go(0, 3, "ArrowUp"), [-1, 3]);
  assert.deepEqual(go(-1, 3, "ArrowUp"), [-1, 3]);
  assert.deepEqual(go(-1, 3, "ArrowDown"), [0, 3]);
  assert.deepEqual(go(5, 3, "PageUp"), [0, 3]);
  assert.deepEqual(go(95, 3, "PageDown"), [99, 3]);
  assert.deepEqual(go(5, 3, "Home"), [5, 0]);
  assert.deepEqual(go(5, 3, "End"), [5, 7]);
  assert.deepEqual(go(5, 3, "End", true), [99, 7]);
  assert.deepEqual(go(5, 3, "Home", true), [0, 0]);
  assert.deepEqual(go(5, 0, "ArrowLeft"), [5, 0]);
  assert.equal(go(5, 0, "x"), null);
  assert.equal(go(5, 0, "constructor"), null);
  assert.deepEqual(panel.gridMove({ row: -1, col: 0 }, "ArrowDown", { rows: 0, cols: 8, page: 1 }), { row: -1, col: 0 });
});

test("a header is sorted up, down, not at all; with shift beside the others", () => {
  const up = panel.nextSort([], "a", false);
  const down = panel.nextSort(up, "a", false);
  assert.deepEqual([up, down, panel.nextSort(down, "a", false)], [[{ column: "a", descending: false }], [{ column: "a", descending: true }], []]);
  assert.deepEqual(panel.nextSort(up, "b", true), [...up, { column: "b", descending: false }]);
  assert.deepEqual(panel.nextSort(up, "b", false), [{ column: "b", descending: false }]);
});

test("the slider reaches 1 and all, rises, and finds its place again", () => {
  for (const most of [1, 20, 868, 10_000, 1_000_000]) {
    let before = 0;
    for (let at = 0; at < 1000; at++) {
      const limit = panel.sliderToLimit(at, most);
      assert.ok(limit >= 1 && limit <= most && limit >= before, `${most} ${at} ${limit}`);
      before = limit;
    }
    assert.equal(panel.sliderToLimit(1000, most), null);
    assert.equal(panel.limitToSlider(null, most), 1000);
    if (most > 1) assert.equal(panel.sliderToLimit(panel.limitToSlider(1, most), most), 1);
  }
  assert.equal(panel.sliderToLimit(panel.limitToSlider(100, 868), 868), 100);
});

test("only the newest request of a kind counts", () => {
  const requests = new panel.Requests(1);
  const [a, b, c] = [requests.take("view"), requests.take("view"), requests.take("record")];
  assert.deepEqual([requests.isNewest("view", a), requests.isNewest("view", b), requests.isNewest("record", c)], [false, true, true]);
  assert.equal(new Set([a, b, c]).size, 3);
  const far = new panel.Requests();
  assert.ok(Number.isSafeInteger(far.next + 2 ** 20));
});

test("changes that come fast leave together, the last of each name", async () => {
  /** @type {any[]} */
  const sent = [];
  const changes = panel.coalesce((/** @type {any} */ c) => sent.push(c), 15);
  for (let k = 0; k < 50; k++) changes.push({ limit: k });
  changes.push({ budget: 1 });
  assert.ok(changes.holds("limit") && changes.holds() && !changes.holds("n"));
  assert.deepEqual(sent, []);
  await new Promise((resolve) => setTimeout(resolve, 60));
  assert.deepEqual(sent, [{ limit: 49, budget: 1 }]);
  changes.push({ n: 2 });
  changes.flush();
  changes.flush();
  assert.deepEqual(sent.slice(1), [{ n: 2 }]);
  changes.push({ n: 3 });
  changes.drop();
  await new Promise((resolve) => setTimeout(resolve, 40));
  assert.equal(sent.length, 2);
});
