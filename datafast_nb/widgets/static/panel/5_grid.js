// The rows: a window onto a table of any height.

/** Kind of a column → pixels at least, share of what is left over. */
const WIDTHS = new Map(Object.entries({
  status: [88, 0], paid: [84, 0], time: [72, 0], pin: [44, 0],
  number: [84, 0], bool: [72, 0], category: [104, 0.5], list: [104, 0.6], text: [150, 2], other: [110, 1],
}));
const OURS = ["index", "status", "paid", "time", "pin"];
const RIGHT = ["index", "number", "paid", "time"];

/** Columns such as `_model`, which steps add. @param {Column} column */
const isInternal = (column) => column.name.startsWith("_");

class Grid {
  /**
   * @param {Line} line
   * @param {{open: (at: number) => void, moved: () => void, announce: (text: string) => void}} page
   */
  constructor(line, page) {
    this.line = line;
    this.page = page;
    this.head = h("div", { class: "row head", role: "row", "aria-rowindex": "1" });
    this.body = h("div", { class: "body", role: "rowgroup" });
    this.grid = h("div", { class: "grid", role: "grid", "aria-label": "Records", "aria-multiselectable": "true" },
      h("div", { class: "heads", role: "rowgroup" }, this.head), this.body);
    this.scroller = h("div", { class: "scroll table", tabindex: "-1" }, this.grid);
    this.empty = h("div", { class: "empty" });
    this.element = h("div", { class: "gridbox" }, this.scroller, this.empty);
    /** Position in the view of the table, column. Row −1 is the header. */
    this.at = { row: 0, col: 0 };
    this.top = 0; // of the first row in sight, in pixels of the table
    this.bar = 0; // where the scrollbar stands for it
    this.most = MAX_PX;
    this.map = scrollMap(0, 0);
    /** @type {{element: HTMLElement, cells: HTMLElement[], row: Row | null, at: number}[]} */
    this.slots = [];
    this.shape = "";
    /** @type {{name: string, kind: string}[]} */
    this.cols = [];
    /** Columns that are drawn, as places in the table's. @type {number[]} */
    this.shown = [];
    /** Also those that the tool adds. */
    this.internals = false;
    this.frame = 0;
    this.scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
    this.scroller.addEventListener("wheel", (e) => this.wheeled(e), { passive: false });
    this.scroller.addEventListener("keydown", (e) => this.pressed(e));
    this.body.addEventListener("click", (e) => this.clicked(e));
    this.body.addEventListener("mousedown", (e) => {
      if (e.shiftKey || e.detail > 1) e.preventDefault(); // rows are chosen, not letters
    });
    this.body.addEventListener("dblclick", () => this.page.open(this.at.row));
    this.scroller.addEventListener("focusin", (e) => this.focused(e));
  }

  /** Columns of the table that are drawn. @returns {Column[]} */
  get data() {
    const { columns } = this.line.table;
    return columns ? this.shown.map((k) => columns[k]).filter(Boolean) : [];
  }

  get viewport() {
    return Math.max(0, this.scroller.clientHeight - this.head.offsetHeight);
  }

  soon() {
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0;
      this.paint();
    });
  }

  /** The columns have changed: header and cells are made anew. */
  shapeUp() {
    const { table } = this.line;
    const { sort, step } = table.query;
    const digits = count(table.n).length;
    const shape = JSON.stringify([step, table.columns, sort, digits, this.internals]);
    if (shape === this.shape || !table.columns) return;
    const before = this.cols.map((c) => c.name).join("\n");
    this.shape = shape;
    this.shown = table.columns.map((_, k) => k).filter((k) => this.internals || !isInternal(/** @type {Column[]} */ (table.columns)[k]));
    this.cols = [
      { name: "", kind: "index" },
      { name: "status", kind: "status" },
      ...this.data.map(({ name, kind }) => ({ name, kind })),
      { name: "paid", kind: "paid" },
      { name: "time", kind: "time" },
      { name: "pin", kind: "pin" },
    ];
    const widths = this.cols.map((c) => (c.kind === "index" ? [30 + digits * 8, 0] : (WIDTHS.get(c.kind) ?? [110, 1])));
    // Where no column takes what is left over, all data columns do.
    const rigid = widths.every(([, share]) => !share);
    this.grid.style.setProperty("--columns", widths.map(([px, share], k) =>
      share || (rigid && !OURS.includes(this.cols[k].kind)) ? `minmax(${px}px, ${share || 1}fr)` : `${px}px`).join(" "));
    this.grid.style.minWidth = `${widths.reduce((sum, [px]) => sum + px, 0)}px`;
    put(this.grid, "aria-colcount", String(this.cols.length));
    const focus = this.at.row < 0 && this.head.contains(document.activeElement);
    this.head.replaceChildren(...this.cols.map((c, k) => this.headCell(c, k, sort)));
    if (before !== this.cols.map((c) => c.name).join("\n")) {
      this.slots = [];
      this.body.replaceChildren();
      this.at.col = Math.min(this.at.col, this.cols.length - 1);
    }
    if (focus) this.cell()?.focus({ preventScroll: true });
  }

  /** @param {{name: string, kind: string}} col @param {number} k @param {Sort[]} sort */
  headCell(col, k, sort) {
    const column = this.data[k - 2];
    const props = { role: "columnheader", class: `cell ${col.kind}${RIGHT.includes(col.kind) ? " r" : ""}`, "aria-colindex": k + 1 };
    if (k < 2 || !column) return h("div", { ...props, tabindex: "-1" }, h("span", { class: col.name ? null : "off" }, col.name || "row"));
    const place = sort.findIndex((s) => s.column === col.name);
    const how = place < 0 ? "none" : sort[place].descending ? "descending" : "ascending";
    const rank = sort.length > 1 && place >= 0 ? String(place + 1) : "";
    const arrow = place < 0 ? "" : ` ${sort[place].descending ? "↓" : "↑"}${rank}`;
    const facts = [column.words, column.distinct == null ? "" : `${count(column.distinct)} distinct`,
      column.nulls ? `${(100 * column.nulls).toFixed(column.nulls < 0.1 ? 1 : 0)} % empty` : "",
      column.sampled ? `from ${count(column.sampled)} sampled records` : ""].filter(Boolean).join(" · ");
    const name = visible(col.name);
    return h("div", { ...props, "aria-sort": how }, h("button", {
      class: "sort", tabindex: "-1",
      title: `${name}${facts ? `: ${visible(facts)}` : ""}. Click to sort, with Shift beside the others`,
      onclick: (e) => {
        this.at = { row: -1, col: k };
        this.line.table.set({ sort: nextSort(sort, col.name, e.shiftKey) });
        this.to(0);
      },
    }, h("bdi", {}, name), arrow), spark(column));
  }

  paint() {
    const { table } = this.line;
    // While nothing is laid out (a host hides cells when it changes its theme) nothing can be measured.
    if (!this.element.isConnected || !this.scroller.clientHeight) return;
    this.shapeUp();
    put(this.grid, "aria-rowcount", String(table.n + 1));
    put(this.grid, "aria-busy", table.ready ? null : "true");
    const { viewport } = this;
    this.map = scrollMap(table.n, viewport, this.most);
    const height = `${this.map.height}px`;
    if (this.body.style.height !== height) {
      this.body.style.height = height;
      const got = this.body.getBoundingClientRect().height;
      if (got < this.map.height - 1) {
        this.most = got; // this browser draws less
        this.map = scrollMap(table.n, viewport, this.most);
      }
    }
    if (this.top > this.map.end) this.to(this.map.end);
    this.at.row = Math.max(-1, Math.min(this.at.row, table.n - 1));
    const [first, last] = table.columns ? rowsInSight(this.top, viewport, table.n) : [0, 0];
    if (table.columns) table.want(first, last);
    while (this.slots.length > last - first) this.slots.pop()?.element.remove();
    while (this.slots.length < last - first) this.addSlot();
    const hadFocus = this.body.contains(document.activeElement);
    const shift = this.bar - this.top;
    this.slots.forEach((slot, k) => this.fillSlot(slot, first + k, (first + k) * ROW_PX + shift));
    for (const [k, cell] of [...this.head.children].entries()) {
      const stop = /** @type {HTMLElement} */ (cell.querySelector("button") ?? cell);
      stop.tabIndex = this.at.row < 0 && this.at.col === k ? 0 : -1;
    }
    const cell = this.cell();
    this.scroller.tabIndex = cell ? -1 : 0;
    if (hadFocus && cell !== document.activeElement) (cell ?? this.scroller).focus({ preventScroll: true });
    const words = table.error || (table.n || !table.columns || !table.ready ? "" : this.whyEmpty());
    say(this.empty, visible(words));
    this.empty.hidden = !words;
  }

  whyEmpty() {
    const { query } = this.line.table;
    if (query.status === "failed") return "No record has failed.";
    if (!isPlain(query)) return "No record matches.";
    if (this.line.isRunning) return "Records appear here as they are finished.";
    return this.line.state.phase === "done" ? "No record came out: the tabs Record and Graph show where it ended." : "No records yet: Run one shows what comes out.";
  }

  addSlot() {
    const cells = this.cols.map((c, k) => h("div", {
      role: "gridcell", tabindex: "-1", "aria-colindex": k + 1,
      class: `cell ${c.kind}${RIGHT.includes(c.kind) ? " r" : ""}`,
    }));
    const element = h("div", { class: "row", role: "row" }, ...cells);
    this.body.append(element);
    this.slots.push({ element, cells, row: null, at: -1 });
  }

  /** @param {Grid["slots"][number]} slot @param {number} at @param {number} top */
  fillSlot(slot, at, top) {
    const { table, state } = this.line;
    const row = table.row(at) ?? null;
    const { element, cells } = slot;
    element.style.top = `${top}px`;
    put(element, "aria-rowindex", String(at + 2));
    const chosen = row !== null && table.selected.has(row.i);
    put(element, "aria-selected", String(chosen));
    element.classList.toggle("chosen", chosen);
    element.classList.toggle("now", at === this.at.row);
    cells.forEach((cell, k) => (cell.tabIndex = at === this.at.row && k === this.at.col ? 0 : -1));
    const pinned = row !== null && table.query.step === FINAL && state.pins.includes(row.i);
    const pin = cells[cells.length - 1];
    say(pin, row && table.query.step === FINAL ? (pinned ? "★" : "☆") : "");
    put(pin, "aria-label", pinned ? "pinned" : "not pinned");
    if (slot.row === row && slot.at === at) return;
    slot.row = row;
    slot.at = at;
    element.classList.toggle("bad", row?.s === "failed");
    const n = cells.length;
    const texts = row ? this.shown.map((c) => row.v[c] ?? "") : [];
    // What a failed record does not have tells why.
    let free = row?.why ? texts.length : -1;
    while (free > 0 && texts[free - 1] === "") free--;
    if (free === texts.length) free = -1;
    cells.slice(2, n - 3).forEach((cell, k) => {
      const text = k === free ? `${row?.why}` : (texts[k] ?? (row ? "" : "…"));
      say(cell, visible(clip(text, 400)[0]));
      cell.style.gridColumn = k === free ? `${k + 3} / ${n - 2}` : "";
      cell.style.display = free >= 0 && k > free ? "none" : "";
      cell.classList.toggle("why", k === free);
    });
    say(cells[0], row ? count(row.i) : "");
    cells[1].replaceChildren(row ? mark(row.s) : "");
    put(cells[1], "title", row?.why ? visible(row.why) : null);
    say(cells[n - 3], !row || row.usd === null ? "–" : row.usd === 0 && row.s !== "new" ? "–" : usd(row.usd));
    say(cells[n - 2], !row || row.sec === null ? "–" : seconds(row.sec));
  }

  /** The cell of the roving tab stop, if it is drawn. @returns {HTMLElement | null} */
  cell() {
    const { row, col } = this.at;
    if (row < 0) {
      const head = this.head.children[col];
      return /** @type {HTMLElement} */ (head?.querySelector("button") ?? head ?? null);
    }
    return this.slots.find((s) => s.at === row)?.cells[col] ?? null;
  }

  scrolled() {
    const at = this.scroller.scrollTop;
    if (Math.abs(at - this.bar) < 1.5 && this.map.scaled) return;
    if (at === this.bar) return;
    this.bar = at;
    this.top = this.map.toTable(at);
    this.soon();
  }

  /** @param {WheelEvent} e */
  wheeled(e) {
    // A scaled scrollbar would jump over thousands of rows.
    if (!this.map.scaled || !e.deltaY || e.ctrlKey) return;
    e.preventDefault();
    this.to(this.top + e.deltaY * (e.deltaMode === 1 ? ROW_PX : e.deltaMode === 2 ? this.viewport : 1));
  }

  /** Scroll to a place of the table, in pixels. @param {number} top */
  to(top) {
    this.top = Math.max(0, Math.min(this.map.end, top));
    this.scroller.scrollTop = this.map.toBar(this.top);
    this.bar = this.scroller.scrollTop;
    if (!this.map.scaled) this.top = this.bar;
    this.soon();
  }

  /** Make a row the current one, in sight. @param {number} row @param {number} [col] @param {boolean} [focus] */
  go(row, col = this.at.col, focus = true) {
    this.at = { row, col };
    const y = row * ROW_PX;
    if (row >= 0 && y < this.top) this.to(y);
    else if (row >= 0 && y + ROW_PX > this.top + this.viewport) this.to(y + ROW_PX - this.viewport);
    this.paint();
    const cell = this.cell();
    if (cell) {
      const left = cell.offsetLeft;
      const { scroller } = this;
      if (left < scroller.scrollLeft) scroller.scrollLeft = left;
      else if (left + cell.offsetWidth > scroller.scrollLeft + scroller.clientWidth) {
        scroller.scrollLeft = left + cell.offsetWidth - scroller.clientWidth;
      }
    }
    if (focus) (cell ?? this.scroller).focus({ preventScroll: true });
    this.page.moved();
  }

  /** @param {KeyboardEvent} e */
  pressed(e) {
    const { table } = this.line;
    const far = e.ctrlKey || e.metaKey;
    const page = Math.max(1, Math.floor(this.viewport / ROW_PX) - 1);
    const move = e.altKey ? null : gridMove(this.at, e.key, { rows: table.n, cols: this.cols.length, page, far });
    const row = table.row(this.at.row);
    if (move) this.go(move.row, move.col);
    else if (this.at.row < 0) return; // a header is a button
    else if (e.key === "Enter") this.page.open(this.at.row);
    else if (e.key === " " && row) this.choose(this.at.row, { toggle: true });
    else if (e.key === "p" && !far) this.pin();
    else if (e.key === "c" && far && !String(getSelection())) void this.copyCell();
    else if (e.key === "Escape" && table.selected.size) table.select([]);
    else return;
    e.preventDefault();
  }

  /** @param {MouseEvent} e */
  clicked(e) {
    const target = /** @type {HTMLElement} */ (e.target);
    const slot = this.slots.find((s) => s.element.contains(target));
    if (!slot) return;
    const col = slot.cells.findIndex((c) => c.contains(target));
    const from = this.at.row;
    this.go(slot.at, Math.max(0, col));
    if (this.cols[col]?.kind === "pin") this.pin();
    else this.choose(slot.at, { toggle: e.ctrlKey || e.metaKey, from: e.shiftKey ? from : undefined });
  }

  /** @param {FocusEvent} e */
  focused(e) {
    const slot = this.slots.find((s) => s.element.contains(/** @type {Node} */ (e.target)));
    const col = slot?.cells.indexOf(/** @type {HTMLElement} */ (e.target)) ?? -1;
    if (slot && col >= 0) this.at = { row: slot.at, col };
  }

  /** @param {number} at @param {{toggle?: boolean, from?: number}} how */
  choose(at, { toggle = false, from }) {
    const { table } = this.line;
    const chosen = new Set(toggle || from !== undefined ? table.selected : []);
    // Of a range those that were read; thousands of rows are chosen by a filter.
    const [a, b] = from === undefined ? [at, at] : [Math.min(at, from), Math.max(at, from)];
    for (let k = Math.max(a, b - 5_000); k <= b; k++) {
      const row = table.row(k);
      if (row && toggle && chosen.has(row.i)) chosen.delete(row.i);
      else if (row) chosen.add(row.i);
    }
    table.select(chosen);
  }

  pin() {
    const row = this.line.table.row(this.at.row);
    if (!row || this.line.table.query.step !== FINAL) return;
    void this.line.want("pin", { row: row.i, on: !this.line.state.pins.includes(row.i) });
  }

  async copyCell() {
    const { table } = this.line;
    const [row, column] = [table.row(this.at.row), this.data[this.at.col - 2]];
    if (!row || !column) return;
    const reply = await this.line.want("cell", { step: table.query.step, row: row.i, column: column.name });
    if (reply.ok) this.page.announce((await copyText(reply.text)) ? "Cell copied." : "Nothing can be copied here.");
  }
}
