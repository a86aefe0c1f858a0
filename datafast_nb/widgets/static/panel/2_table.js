// The table that is looked at, as far as it was read.

/** The table that is looked at: its order and filter, and the rows that were read. */
class Table {
  /** @param {Line} line */
  constructor(line) {
    this.line = line;
    /** @type {Query} */
    this.query = { step: FINAL, search: "", status: "all", where: [], sort: [] };
    /** @type {number | null} */
    this.view = null;
    this.n = 0;
    this.version = -1;
    this.code = "df";
    this.error = "";
    this.ready = false;
    /** @type {Column[] | null} */
    this.columns = null;
    this.cache = new WindowCache();
    /** Rows of the table before, shown until the new ones come. @type {WindowCache | null} */
    this.old = null;
    /** @type {number[]} */
    this.wanted = [];
    /** @type {Map<number, Promise<void>>} */
    this.coming = new Map();
    /** Indices in the table of the step. @type {Set<number>} */
    this.selected = new Set();
    /** Counts reloads: what was asked for an earlier table is dropped. */
    this.generation = 0;
    this.failures = 0;
  }

  /** @param {Partial<Query>} change */
  set(change) {
    const step = change.step ?? this.query.step;
    const other = step !== this.query.step;
    if (other) {
      change = { search: "", status: "all", where: [], sort: [], ...change };
      this.columns = null;
      this.select([]);
    }
    this.query = { ...this.query, ...change };
    void this.reload(!other);
  }

  /** The state has come: is the table still the one that was read? */
  check() {
    const { tables } = this.line.state;
    if (!(this.query.step in tables) && this.query.step !== FINAL) this.set({ step: FINAL });
    else if ((tables[this.query.step]?.version ?? 0) !== this.version) {
      this.failures = 0;
      if (this.selected.size && this.version >= 0) this.select([]);
      void this.reload(true);
    } else if (this.view === null && isPlain(this.query)) {
      this.n = tables[this.query.step]?.n ?? 0;
    }
  }

  /** @param {boolean} keep show the rows before until the new ones come */
  async reload(keep) {
    const mine = ++this.generation;
    const { step } = this.query;
    const at = this.line.state.tables[step];
    const changed = this.version !== (at?.version ?? 0) || this.columns === null;
    this.version = at?.version ?? 0;
    this.old = keep ? (this.cache.windows.size ? this.cache : this.old) : null;
    this.cache = new WindowCache();
    this.coming.clear();
    this.wanted = [];
    this.error = "";
    this.view = null;
    if (!keep) this.n = 0;
    this.ready = isPlain(this.query);
    if (this.ready) {
      this.n = at?.n ?? 0;
      this.code = "df";
      this.line.tell("table"); // the rows in sight are asked for before the summaries
    }
    if (changed) void this.loadColumns(mine, step);
    if (this.ready) return;
    this.line.tell("table");
    const reply = await this.line.askNewest("view", { ...this.query });
    if (!reply || mine !== this.generation || reply.error === "overtaken") return;
    this.ready = true;
    this.error = reply.ok ? "" : reply.error;
    this.view = reply.ok ? reply.view : null;
    this.n = reply.ok ? reply.n : 0;
    this.code = reply.ok ? reply.code : "";
    this.line.tell("table");
  }

  /** @param {number} mine @param {string} step */
  async loadColumns(mine, step) {
    const reply = await this.line.askNewest("columns", { step });
    if (!reply || step !== this.query.step) return;
    if (reply.ok) this.columns = reply.columns;
    else if (mine === this.generation) this.error = reply.error;
    this.line.tell("table");
  }

  /** @param {number} at @returns {Row | undefined} */
  row(at) {
    return this.cache.row(at) ?? (at < this.n ? this.old?.row(at) : undefined);
  }

  /** The row, also where it has to be read first. @param {number} at */
  async need(at) {
    if (!this.cache.row(at)) await this.load(Math.floor(at / WINDOW));
    return this.row(at);
  }

  /** Read what is in sight, and the windows beside it. @param {number} first @param {number} last */
  want(first, last) {
    if (!this.ready) return;
    let whole = true;
    for (let at = first; at < last && whole; at++) whole = this.cache.row(at) !== undefined;
    if (whole) this.old = null;
    const windows = windowsFor(first, last, this.n);
    for (const w of windows) this.cache.touch(w);
    this.wanted = windows.filter((w) => this.cache.rest(w, this.n) && !this.coming.has(w));
    this.pump();
  }

  pump() {
    while (this.coming.size < 3 && this.wanted.length) {
      void this.load(/** @type {number} */ (this.wanted.shift()));
    }
  }

  /** @param {number} w @returns {Promise<void>} */
  load(w) {
    let loading = this.coming.get(w);
    if (!loading) {
      loading = this.read(w);
      this.coming.set(w, loading);
    }
    return loading;
  }

  /** @param {number} w */
  async read(w) {
    const mine = this.generation;
    for (let left = this.cache.rest(w, this.n); left; left = this.cache.rest(w, this.n)) {
      const reply = await this.line.ask("window", { step: this.query.step, view: this.view, ...left });
      if (mine !== this.generation) return; // of a table that is no longer looked at
      if (!reply.ok) {
        // A view may be gone; one that is gone again and again is an error to be shown.
        if (++this.failures < 3 && !this.line.lost) void this.reload(true);
        else {
          this.error = reply.error;
          this.line.tell("table");
        }
        return;
      }
      // Of a newer table: its state is on the way, and everything is read again.
      if (reply.version !== this.version || !reply.rows.length) break;
      this.cache.put(reply.start, reply.rows);
      this.line.tell("table");
    }
    this.coming.delete(w);
    this.pump();
  }

  /** @param {Iterable<number>} rows */
  select(rows) {
    this.selected = new Set(rows);
    this.line.selecting.push({ rows: [...this.selected] });
    this.line.tell("table");
  }
}
