// The browser's half of the panel. What it and Python say to each other: docs/panel-protocol.md.
// Plain ESM without imports. From above to below: pure functions, the line to Python with what it
// holds (table, record, draft), and the view, a part for each tab. Texts of records, models and
// users reach the page by textContent alone.

/**
 * What anywidget hands over.
 * @typedef {object} Model
 * @property {(name: string) => any} get
 * @property {(name: string, heard: (...args: any[]) => void) => void} on
 * @property {(name: string, heard: (...args: any[]) => void) => void} off
 * @property {(content: any) => void} send
 * @property {any} [widget_manager]
 */
/** @typedef {Record<string, any>} Json a reply or a part of the state, as the protocol has it */
/** @typedef {{i: number, s: string, v: string[], usd: number | null, sec: number | null, why: string | null}} Row */
/** @typedef {{name: string, kind: string, nulls: number, distinct: number | null, bars: number[], words: string, sampled: number | null}} Column */
/** @typedef {{column: string, op: string, value: any}} Where */
/** @typedef {{column: string, descending: boolean}} Sort */
/** @typedef {{step: string, search: string, status: string, where: Where[], sort: Sort[]}} Query */

export const ROW_PX = 24;
/** Rows in a window, as they are asked for. */
export const WINDOW = 100;
/** Windows that are kept. */
export const KEPT = 20;
export const MAX_DOM_ROWS = 60;
/** Browsers draw no taller element; above this the scrollbar is scaled. */
export const MAX_PX = 1_300_000 * ROW_PX;
const QUEUED_MS = 300;
const STOP_ACK_MS = 1_000;
const POLL_MS = 500;
const UNHEARD_MS = 2_500;
/** Characters that are drawn at once; a text of megabytes would stop the page. */
const MAX_SHOWN = 100_000;
const FINAL = "final";
const BUSY = ["queued", "running", "stopping"];
/** Status → mark and word; colour comes on top. */
export const MARKS = new Map(Object.entries({
  memo: ["●", "memo"],
  new: ["○", "new"],
  failed: ["✕", "failed"],
  part: ["◐", "part"],
  pending: ["◌", "pending"],
  good: ["✓", "good"],
  none: ["–", ""],
}));

// Numbers and texts: the same words as datafast_nb/display/formats.py.

/** @param {number} n */
const grouped = (n) => n.toLocaleString("en-US", { maximumFractionDigits: 0 });

/** @param {number | null | undefined} n a number of records or calls */
export const count = (n) => (n == null || !Number.isFinite(n) ? "unknown" : grouped(n));

/** @param {number} n @param {string} word */
export const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

/**
 * Dollars with two significant digits; "unknown" where there is no number.
 * @param {number | null | undefined} value
 * @returns {string}
 */
export function usd(value) {
  if (value == null || !Number.isFinite(value)) return "unknown";
  if (value < 0) return `−${usd(-value)}`;
  if (value < 1e-12) return "$0";
  if (value >= 99.5) return `$${grouped(value)}`;
  const places = 1 - Math.floor(Math.log10(Number(value.toExponential(1))));
  return `$${value.toFixed(Math.max(0, places))}`;
}

/** @param {number} value a limit in dollars, every digit as it was typed */
export function limitUsd(value) {
  const [whole, rest = ""] = String(Number(value.toFixed(10)).toFixed(10)).split(".");
  return `$${grouped(Number(whole))}.${rest.replace(/0+$/, "").padEnd(2, "0")}`;
}

/** @param {number | null | undefined} value a large number in 2 to 3 digits */
export function amount(value) {
  if (value == null || !Number.isFinite(value)) return "unknown";
  const unit = [..."GMk"].findIndex((_, k) => value >= 1e9 / 1e3 ** k * 0.9995);
  if (unit < 0) return grouped(value);
  const scaled = value / (1e9 / 1e3 ** unit);
  return `${scaled < 9.95 ? scaled.toFixed(1) : grouped(scaled)}${"GMk"[unit]}`;
}

/** @param {number | null | undefined} value a duration in seconds */
export function seconds(value) {
  if (value == null || !Number.isFinite(value)) return "unknown";
  if (value < 0.005) return value > 0 ? "< 0.01 s" : "0 s";
  if (value < 59.5) return `${value.toFixed(value < 0.995 ? 2 : value < 9.95 ? 1 : 0)} s`;
  let minutes = Math.floor(Math.round(value) / 60);
  const rest = Math.round(value) % 60;
  if (minutes < 60) return rest ? `${minutes} min ${rest} s` : `${minutes} min`;
  minutes = Math.round(value / 60);
  const hours = grouped(Math.floor(minutes / 60));
  return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
}

/**
 * Text with control and direction-changing characters shown, not obeyed.
 * @param {string} text
 */
export function visible(text) {
  return text.replace(
    /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]/gu,
    (c) => {
      const point = c.charCodeAt(0).toString(16);
      return c.charCodeAt(0) > 31 ? `\\u${point.padStart(4, "0")}` : `\\x${point.padStart(2, "0")}`;
    },
  );
}

/**
 * The beginning of a text, never half a character, and how many characters are left out.
 * @param {string} text
 * @param {number} most
 * @returns {[string, number]}
 */
export function clip(text, most = MAX_SHOWN) {
  if (text.length <= most) return [text, 0];
  const last = text.charCodeAt(most - 1);
  const at = last >= 0xd800 && last < 0xdc00 ? most - 1 : most;
  return [text.slice(0, at), text.length - at];
}

/**
 * A number that was typed, "$0.50" too; null for an empty field, undefined for no number.
 * @param {string} text
 * @returns {number | null | undefined}
 */
export function typed(text) {
  // Commas between thousands only: 0,50 is no 50.
  const bare = text.replace(/[\s$_]/g, "").replace(/^\d{1,3}(,\d{3})+(?=\.|$)/, (n) => n.replaceAll(",", ""));
  if (bare === "" || bare.toLowerCase() === "all") return null;
  const value = Number(bare);
  return Number.isFinite(value) ? value : undefined;
}

/** @param {any} a @param {any} b two pieces of JSON */
export const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

// The table: what is where.

/**
 * Where a scrollbar's position lies in a table that may be taller than an element can be.
 * @param {number} n rows
 * @param {number} viewport height in pixels
 * @param {number} [most] height of the tallest element
 */
export function scrollMap(n, viewport, most = MAX_PX) {
  const full = n * ROW_PX;
  const height = Math.min(full, most);
  const end = Math.max(0, full - viewport); // largest top edge, in pixels of the table
  const bar = Math.max(0, height - viewport); // and of the scrollbar
  const scaled = full > most;
  return {
    height,
    end,
    scaled,
    /** @param {number} at */
    toTable: (at) => Math.min(end, Math.max(0, scaled ? (bar ? (at / bar) * end : 0) : at)),
    /** @param {number} top */
    toBar: (top) => (scaled ? (end ? (top / end) * bar : 0) : top),
  };
}

/**
 * First row and the one behind the last that are drawn: those in sight and some around them.
 * @param {number} top
 * @param {number} viewport
 * @param {number} n
 * @param {number} [around]
 * @returns {[number, number]}
 */
export function rowsInSight(top, viewport, n, around = 4) {
  const shown = Math.ceil(viewport / ROW_PX) + 1;
  const extra = Math.max(0, Math.min(around, Math.floor((MAX_DOM_ROWS - shown) / 2)));
  const first = Math.max(0, Math.floor(top / ROW_PX) - extra);
  return [first, Math.min(n, first + Math.min(MAX_DOM_ROWS, shown + 2 * extra))];
}

/** The windows that were read last. A window may come in pieces. */
export class WindowCache {
  /** @param {number} [size] @param {number} [kept] */
  constructor(size = WINDOW, kept = KEPT) {
    this.size = size;
    this.kept = kept;
    /** @type {Map<number, Row[]>} */
    this.windows = new Map();
  }

  /** @param {number} at @returns {Row | undefined} */
  row(at) {
    return this.windows.get(Math.floor(at / this.size))?.[at % this.size];
  }

  /** Mark a window as used. @param {number} w */
  touch(w) {
    const rows = this.windows.get(w);
    if (rows) {
      this.windows.delete(w);
      this.windows.set(w, rows);
    }
  }

  /** @param {number} start @param {Row[]} rows */
  put(start, rows) {
    rows.forEach((row, k) => {
      const w = Math.floor((start + k) / this.size);
      if (!this.windows.has(w)) this.windows.set(w, []);
      /** @type {Row[]} */ (this.windows.get(w))[(start + k) % this.size] = row;
    });
    this.touch(Math.floor(start / this.size));
    for (const w of this.windows.keys()) {
      if (this.windows.size <= this.kept) break;
      this.windows.delete(w);
    }
  }

  /**
   * What is still missing of a window of a table of n rows; null: nothing.
   * @param {number} w
   * @param {number} n
   */
  rest(w, n) {
    const got = this.windows.get(w)?.length ?? 0;
    const whole = Math.min(this.size, n - w * this.size);
    return got < whole ? { start: w * this.size + got, n: whole - got } : null;
  }
}

/**
 * Windows to be read for some rows: those in sight first, then one on each side.
 * @param {number} first
 * @param {number} last behind the last row
 * @param {number} n
 */
export function windowsFor(first, last, n) {
  if (n <= 0 || last <= first) return [];
  const [a, b] = [Math.floor(first / WINDOW), Math.floor((last - 1) / WINDOW)];
  const seen = Array.from({ length: b - a + 1 }, (_, k) => a + k);
  if ((b + 1) * WINDOW < n) seen.push(b + 1);
  if (a > 0) seen.push(a - 1);
  return seen;
}

/**
 * Where a key moves to in the grid; row −1 is the header. Null: not a key of the grid.
 * @param {{row: number, col: number}} at
 * @param {string} key
 * @param {{rows: number, cols: number, page: number, far?: boolean}} size far: with Ctrl or ⌘
 */
export function gridMove(at, key, { rows, cols, page, far = false }) {
  const moves = new Map(Object.entries({
    ArrowUp: [far ? -rows : -1, 0],
    ArrowDown: [far ? rows : 1, 0],
    ArrowLeft: [0, far ? -cols : -1],
    ArrowRight: [0, far ? cols : 1],
    PageUp: [-page, 0],
    PageDown: [page, 0],
    Home: [far ? -rows : 0, -cols],
    End: [far ? rows : 0, cols],
  }));
  const move = moves.get(key);
  if (!move) return null;
  const [down, right] = move;
  // Only a single step up leaves the rows for the header.
  const top = at.row <= 0 && key === "ArrowUp" ? -1 : Math.min(0, rows - 1);
  const from = at.row < 0 && down > 0 ? -1 : at.row;
  const row = down ? Math.max(top, Math.min(rows - 1, from + down)) : at.row;
  return { row, col: Math.max(0, Math.min(cols - 1, at.col + right)) };
}

/**
 * The next sorting when a header is clicked: up, down, none. With shift beside the others.
 * @param {Sort[]} sort
 * @param {string} column
 * @param {boolean} beside
 * @returns {Sort[]}
 */
export function nextSort(sort, column, beside) {
  const was = sort.find((s) => s.column === column);
  const others = beside ? sort.filter((s) => s.column !== column) : [];
  if (!was) return [...others, { column, descending: false }];
  return was.descending ? others : [...others, { column, descending: true }];
}

/** @param {Query} q whether it asks for all rows as they are */
export const isPlain = (q) =>
  q.search.trim() === "" && q.status === "all" && !q.where.length && !q.sort.length;

// Controls.

/**
 * A slider over 1 … most in 1,000 steps, finer among small numbers. At its end null: all.
 * @param {number} at
 * @param {number} most
 */
export function sliderToLimit(at, most) {
  if (at >= 1_000) return null;
  if (most <= 1_000) return Math.max(1, Math.min(most, Math.round((at / 1_000) * most)));
  const value = most ** (at / 1_000);
  const step = 10 ** Math.max(0, Math.floor(Math.log10(value)) - 1);
  return Math.max(1, Math.min(most, Math.round(value / step) * step));
}

/** @param {number | null} limit @param {number} most */
export function limitToSlider(limit, most) {
  if (limit == null || limit >= most) return 1_000;
  if (most <= 1_000) return Math.round((Math.max(0, limit) / most) * 1_000);
  return Math.round((Math.log(Math.max(1, limit)) / Math.log(most)) * 1_000);
}

/**
 * What the Run button says: how many records and what is likely to be paid.
 * @param {Json} state
 * @param {boolean} [changing] the estimate is of other controls
 */
export function runLabel(state, changing = false) {
  const { limit, n_records: all } = state.controls;
  const n = limit == null ? all : all == null ? limit : Math.min(limit, all);
  const what = n == null ? (limit == null ? "Run all" : "Run") : `Run ${count(n)}`;
  const e = state.estimate;
  if (changing || e == null) return `${what} · …`;
  if (e.new === 0) return `${what} · no new call`;
  if (e.likely == null) return e.new == null ? what : `${what} · price unknown`;
  return `${what} · ${e.exact ? "" : "about "}${usd(e.likely)}`;
}

/**
 * What to do about a Stop that was clicked.
 * @param {{acked: boolean, ms: number, waiting: boolean, canInterrupt: boolean}} at
 * @returns {"acked" | "wait" | "interrupt" | "words"}
 */
export function stopStep({ acked, ms, waiting, canInterrupt }) {
  if (acked) return "acked";
  if (ms < STOP_ACK_MS) return "wait";
  // Only a cell of ours may be interrupted.
  return waiting && canInterrupt ? "interrupt" : "words";
}

/**
 * What a screen reader hears of a change: start, each 10 %, first failure, stop, end, errors.
 * @param {Json | null} before
 * @param {Json} after
 */
export function announce(before, after) {
  const said = (/** @type {Json} */ s) => `${s.said}${s.error ? ` ${s.error.title}: ${s.error.text}` : ""}`;
  if (!before) return "";
  if (before.phase !== after.phase) return said(after);
  if (after.error && before.error?.text !== after.error.text) return said(after);
  const [a, b] = [before.progress, after.progress];
  if (after.phase !== "running" || !b?.total) return "";
  const tenth = (/** @type {Json | null} */ p) => (p?.total ? Math.floor((10 * p.done) / p.total) : 0);
  const failed = b.failed ? `, ${count(b.failed)} failed` : "";
  if (tenth(b) > tenth(a)) return `${10 * tenth(b)} percent: ${count(b.done)} of ${count(b.total)} calls${failed}.`;
  return b.failed && !a?.failed ? `${count(b.failed)} failed.` : "";
}

/**
 * Widths of the bar's parts in percent; together at most 100.
 * @param {Json | null} progress
 */
export function barParts(progress) {
  const total = Math.max(progress?.total ?? 0, progress?.done ?? 0);
  const part = (/** @type {number} */ n) => (total ? Math.min(100, (100 * n) / total) : 0);
  const [memo, made, failed] = [progress?.memo ?? 0, progress?.new ?? 0, progress?.failed ?? 0].map(part);
  const over = Math.max(1, (memo + made + failed) / 100);
  return { memo: memo / over, new: made / over, failed: failed / over };
}

/**
 * Light or dark: what the host says, else the colour of its text, else the system.
 * @param {{vscode?: string, jupyter?: string, colab?: string, luma?: number | null, system?: boolean}} seen
 *   luma: of the host's text, 0 black to 1 white; system: prefers dark
 * @returns {"light" | "dark"}
 */
export function themeOf({ vscode, jupyter, colab, luma, system }) {
  if (vscode) return /dark|high-contrast$/.test(vscode) ? "dark" : "light";
  if (jupyter) return jupyter === "false" ? "dark" : "light";
  if (colab) return colab === "dark" ? "dark" : "light";
  if (luma != null) return luma > 0.5 ? "dark" : "light";
  return system ? "dark" : "light";
}

/** Brightness of a CSS colour, 0 to 1; null for one that cannot be seen. @param {string} color */
export function lumaOf(color) {
  const [r, g, b, a = 1] = (color.match(/[\d.]+/g) ?? []).map(Number);
  return b == null || a < 0.2 ? null : (0.2126 * r + 0.7152 * g + 0.0722 * b) / 255;
}

/** Fields of a prompt, "{{" is a brace. @param {string} prompt */
export function fieldsOf(prompt) {
  const found = prompt.replace(/\{\{|\}\}/g, "").matchAll(/\{\s*([^{}\s]+)\s*\}/g);
  return [...new Set([...found].map((m) => m[1]))];
}

/** Numbers of requests, and which is the newest of its kind. */
export class Requests {
  /** Numbers start anywhere: the same panel may be open in another window. @param {number} [first] */
  constructor(first = 1 + Math.floor(Math.random() * 2 ** 31) * 2 ** 20) {
    this.next = first;
    /** @type {Map<string, number>} */
    this.newest = new Map();
  }

  /** @param {string} op */
  take(op) {
    this.newest.set(op, this.next);
    return this.next++;
  }

  /** @param {string} op @param {number} id */
  isNewest(op, id) {
    return this.newest.get(op) === id;
  }
}

/**
 * Changes that come fast leave together, the last one of each name; the first waits `ms`.
 * @param {(changes: Json) => any} send
 * @param {number} ms
 */
export function coalesce(send, ms) {
  /** @type {Json} */
  let held = {};
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;
  const flush = () => {
    clearTimeout(timer);
    timer = undefined;
    const changes = held;
    held = {};
    return Object.keys(changes).length ? send(changes) : undefined;
  };
  return {
    /** @param {Json} changes */
    push(changes) {
      Object.assign(held, changes);
      timer ??= setTimeout(flush, ms);
    },
    flush,
    /** @param {string} [name] */
    holds: (name) => (name === undefined ? Object.keys(held).length > 0 : name in held),
    drop() {
      clearTimeout(timer);
      timer = undefined;
      held = {};
    },
  };
}
