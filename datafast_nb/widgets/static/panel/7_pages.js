// The tabs Records and Record.

const OPS = ["=", "!=", "<", "<=", ">", ">=", "contains", "in", "is null", "not null"];

class RecordsPage {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    this.line = view.line;
    const { table } = this.line;
    this.grid = new Grid(this.line, {
      open: (at) => void view.record.open(at, true), moved: () => this.paintFoot(), announce: (text) => view.announce(text),
    });
    this.searching = coalesce(({ search }) => table.set({ search }), 250);
    this.search = h("input", {
      type: "search", class: "search", placeholder: "Search", "aria-label": "search all texts",
      oninput: () => this.searching.push({ search: this.search.value }),
    });
    this.after = h("select", { "aria-label": "records after step", onchange: () => table.set({ step: this.after.value }) });
    this.filters = ["all", "new", "memo", "failed"].map((status) =>
      h("button", { "data-status": status, onclick: () => table.set({ status }) }, status[0].toUpperCase() + status.slice(1)));
    this.column = h("select", { "aria-label": "column to filter" });
    this.op = h("select", { "aria-label": "comparison" });
    choices(this.op, OPS.map((o) => [o, o]));
    this.value = h("input", { "aria-label": "value to compare with", class: "short", onkeydown: (e) => e.key === "Enter" && this.addFilter() });
    this.adder = h("span", { class: "adder", hidden: true }, this.column, this.op, this.value, h("button", { onclick: () => this.addFilter() }, "Add"));
    this.adding = h("button", { class: "link", "aria-expanded": "false", onclick: () => {
      this.adder.hidden = !this.adder.hidden;
      put(this.adding, "aria-expanded", String(!this.adder.hidden));
      if (!this.adder.hidden) this.column.focus({ preventScroll: true });
    } }, "Filter");
    this.internals = h("button", { class: "link", title: "columns that steps add: _model and the like", onclick: () => {
      this.grid.internals = !this.grid.internals;
      this.paint();
    } });
    this.chips = h("span", { class: "chips" });
    this.code = h("code", { dir: "ltr" });
    this.copy = view.codeButton("Copy", "view", "pandas that gives these rows");
    this.sampled = h("span", { class: "wide" });
    this.place = h("span", { class: "place" });
    this.element = h("div", { class: "page" },
      h("div", { class: "bar tools" }, this.search, h("label", {}, h("span", {}, "after"), this.after),
        h("span", { class: "seg", role: "group", "aria-label": "status" }, ...this.filters), this.adding, this.adder, this.internals, this.chips),
      this.grid.element,
      h("div", { class: "foot" }, this.code, this.copy, h("span", { class: "sp" }), this.sampled, this.place));
  }

  close() {
    this.searching.drop();
    cancelAnimationFrame(this.grid.frame);
  }

  addFilter() {
    const { table } = this.line;
    const [column, op, text] = [this.column.value, this.op.value, this.value.value];
    const isNull = op.endsWith("null");
    if (!column || (text === "" && !isNull)) return;
    const kind = table.columns?.find((c) => c.name === column)?.kind;
    const plain = (/** @type {string} */ t) => (kind === "bool" ? /^(true|1|yes)$/i.test(t) : kind === "number" ? (typed(t) ?? t) : t);
    const value = isNull ? null : op === "in" ? text.split(",").map((t) => plain(t.trim())) : plain(text);
    this.value.value = "";
    table.set({ where: [...table.query.where, { column, op, value }] });
  }

  paint() {
    const { line } = this;
    const { table, state } = line;
    const { query } = table;
    const lost = line.lost !== "";
    if (!this.searching.holds()) fill(this.search, query.search);
    const last = state.steps[state.steps.length - 1]?.name;
    const steps = Object.keys(state.tables).filter((name) => name !== FINAL && name !== last);
    choices(this.after, [[FINAL, last ?? "the last step"], ...steps.reverse().map((s) => [s, s])]);
    this.after.value = query.step;
    for (const button of this.filters) {
      put(button, "aria-pressed", String(button.dataset.status === query.status));
      button.disabled = lost;
    }
    choices(this.column, (table.columns ?? []).map((c) => [c.name, c.name]));
    this.search.disabled = this.after.disabled = this.copy.disabled = this.adding.disabled = lost;
    if (this.view.isNew("chips", query.where)) {
      this.chips.replaceChildren(...query.where.map((w, k) => {
        const text = visible(`${w.column} ${w.op}${w.value === null ? "" : ` ${w.value}`}`);
        return h("button", {
          class: "chip", title: "take this filter away", "aria-label": `take away the filter ${text}`,
          onclick: () => table.set({ where: query.where.filter((_, at) => at !== k) }),
        }, text, h("span", { "aria-hidden": "true" }, " ✕"));
      }));
    }
    const internals = (table.columns ?? []).filter(isInternal).length;
    this.internals.hidden = !internals;
    say(this.internals, this.grid.internals ? "Hide _columns" : `+ ${plural(internals, "_column")}`);
    put(this.internals, "aria-expanded", String(this.grid.internals));
    this.grid.paint();
    this.paintFoot();
  }

  paintFoot() {
    const { table, state } = this.line;
    say(this.code, visible(table.code));
    put(this.code, "title", this.code.textContent);
    const sampled = table.columns?.find((c) => c.sampled)?.sampled;
    say(this.sampled, sampled ? `bars: sampled ${count(sampled)} of ${count(state.tables[table.query.step]?.n)}` : "");
    const chosen = table.selected.size > 1 ? `${count(table.selected.size)} selected, ` : "";
    const row = Math.min(table.n, Math.max(1, this.grid.at.row + 1));
    say(this.place, !table.ready ? "looking …" : table.n ? `${chosen}row ${count(row)} of ${count(table.n)}` : "no rows");
  }
}

class RecordPage {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    this.line = view.line;
    /** Step of the lineage and call that are shown; −1: the last that asked a model. */
    this.stage = { step: -1, call: 0 };
    this.lineage = h("div", { class: "lineage", role: "group", "aria-label": "steps of this record" });
    this.details = h("div", { class: "details" });
    this.title = h("span", { class: "clip" });
    const arrow = (/** @type {string} */ sign, /** @type {string} */ label, /** @type {number} */ by) => h("button", {
      class: "ic", "aria-label": label, onclick: () => {
        const { n } = this.line.table;
        if (n) void this.open(Math.max(0, Math.min(n - 1, view.records.grid.at.row + by)), false);
      },
    }, sign);
    this.pin = h("button", { onclick: () => {
      const { record, state } = this.line;
      if (record?.row != null) void this.line.want("pin", { row: record.row, on: !state.pins.includes(record.row) });
    } }, "Pin");
    this.copy = h("button", { onclick: () => view.copy(this.copy, async () =>
      each(this.call()?.messages, (m) => m.content).join("\n\n")) }, "Copy prompt");
    this.again = h("button", { onclick: () => {
      const call = this.call();
      if (call) void this.line.spend("retry", { key: call.key, label: call.label });
    } }, "Ask again");
    this.element = h("div", { class: "page", onkeydown: (e) => e.key === "Escape" && this.back() }, h("div", { class: "cols" }, this.lineage, this.details), h("div", { class: "foot" },
      arrow("‹", "record above in the table", -1), arrow("›", "record below in the table", 1),
      this.title, h("span", { class: "sp" }), this.pin, this.copy, this.again));
  }

  /** The record of a row of the table. @param {number} at @param {boolean} focus */
  async open(at, focus) {
    const { line, view } = this;
    const { table } = line;
    if (at < 0 || at >= table.n) return;
    const { step } = table.query;
    const row = await table.need(at);
    if (!row || step !== table.query.step) return;
    view.records.grid.at.row = at;
    if (focus) this.stage = { step: -1, call: 0 };
    table.select([row.i]);
    void line.openRecord(step, row.i, !focus);
    view.show("record", focus);
  }

  /** To the row of the table that the record stands in. */
  back() {
    this.view.show("records");
    this.view.records.grid.go(Math.max(0, this.view.records.grid.at.row));
  }

  call() {
    return this.line.record?.data?.lineage?.[this.stage.step]?.calls?.[this.stage.call] ?? null;
  }

  paint() {
    const { record, state, isBusy } = this.line;
    const data = record?.data;
    const lineage = data?.lineage ?? [];
    if (data && (this.stage.step < 0 || this.stage.step >= lineage.length)) {
      const asked = lineage.findLastIndex((/** @type {Json} */ s) => s.calls.length);
      this.stage = { step: asked < 0 ? lineage.length - 1 : asked, call: 0 };
    }
    const call = this.call();
    const again = call?.status === "failed" ? "Retry" : "Ask again";
    say(this.pin, record?.step === FINAL && state.pins.includes(record.row) ? "Unpin" : "Pin");
    this.pin.hidden = record?.step !== FINAL || record.row == null;
    this.copy.hidden = this.again.hidden = !call;
    say(this.again, call?.usd ? `${again} · about ${usd(call.usd)}` : again);
    idle(this.again, isBusy);
    if (!this.view.isNew("record", [data, record?.error, this.stage])) return;
    say(this.title, data ? visible(data.title) : "");
    if (!data) {
      this.lineage.replaceChildren();
      this.details.replaceChildren(emptyPage(!record ? "Choose a row in Records and press Enter, or click Run one." : record.error || "Reading …"));
      return;
    }
    const focus = this.lineage.contains(document.activeElement);
    this.lineage.replaceChildren(...each(lineage, (stage, k) => this.stageButton(stage, k)));
    if (focus) /** @type {HTMLElement} */ (this.lineage.children[this.stage.step])?.focus({ preventScroll: true });
    this.details.replaceChildren(...this.parts(lineage[this.stage.step] ?? { calls: [], values: {}, added: [] }));
  }

  /** @param {Json} stage @param {number} k */
  stageButton(stage, k) {
    const first = stage.calls[0];
    const cost = first?.usd && first.status !== "memo" ? `, ${usd(first.usd)}` : "";
    return h("button", { class: "lin", "aria-current": k === this.stage.step ? "step" : null, onclick: () => {
      this.stage = { step: k, call: 0 };
      this.paint();
    } }, h("span", {}, visible(stage.step || stage.kind || "record")),
    h("small", {}, first ? mark(first.status) : visible(stage.fate), cost, stage.note && `, ${visible(stage.note)}`));
  }

  /** @param {Json} stage */
  parts(stage) {
    const pane = (/** @type {string} */ title, /** @type {Kid[]} */ ...kids) =>
      h("section", { tabindex: "0", "aria-label": title }, h("h4", {}, title), ...kids);
    const pick = (/** @type {boolean} */ added) =>
      Object.fromEntries(Object.entries(stage.values).filter(([name]) => stage.added.includes(name) === added));
    const [made, kept] = [pick(true), pick(false)];
    const more = stage.more ? muted(`and ${plural(stage.more, "further record")} of this step`) : "";
    const call = stage.calls[this.stage.call];
    if (!call) {
      const values = pane("Values", valueList(kept), more);
      return Object.keys(made).length ? [pane("Added here", valueList(made)), values] : [values];
    }
    const n = stage.calls.length;
    const others = n > 1 && h("select", { "aria-label": "call", onchange: (e) => {
      this.stage = { ...this.stage, call: Number(e.target.value) };
      this.paint();
    } }, ...each(stage.calls, (c, k) =>
      h("option", { value: k, selected: k === this.stage.call }, visible(`call ${k + 1} of ${n}: ${c.label || c.model}`))));
    const folded = (/** @type {string} */ title, /** @type {Node} */ body) => h("details", {}, h("summary", {}, visible(title)), body);
    const messages = each(call.messages, (m) => [h("div", { class: "role" }, visible(m.role)), longText(m.content)]).flat();
    const tries = call.attempts > 1 ? `, ${count(call.attempts)} tries` : "";
    /** @type {[string, Kid][]} */
    const facts = [
      ["status", mark(call.status)], ["model", visible(call.model ?? "")],
      ["tokens", `${amount(call.tokens_in)} in, ${amount(call.tokens_out)} out`], [call.status === "memo" ? "paid then" : "paid", usd(call.usd)],
      ["time", `${call.seconds == null ? "unknown" : seconds(call.seconds)}${tries}`],
      ["asked", call.asked_at ? new Date(call.asked_at * 1000).toLocaleString() : "unknown"],
      ["key", h("code", {}, String(call.key ?? "").slice(0, 8))]];
    return [
      pane("1 Prompt as sent", others, ...messages, !messages.length && muted("The messages were not kept."),
        call.request && folded("Request as JSON", longText(call.request))),
      pane("2 Raw reply", call.error && h("p", {}, mark("failed", call.error)), call.error && call.remedy && h("p", {}, visible(call.remedy)),
        call.text == null ? muted("No reply is kept.") : longText(call.text),
        ...each(call.earlier, (e) => folded(`an unusable reply before: ${e.reason || e.verdict}`, longText(e.text))),
        call.cut && muted("Texts are cut at 100,000 characters.")),
      pane("3 Parsed fields", call.fields ? valueList(call.fields) : muted("No fields."), more, h("h4", {}, "Call"), pairs(facts),
        Object.keys(kept).length > 0 && folded("Other values of the record", valueList(kept))),
    ];
  }
}
