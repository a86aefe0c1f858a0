// The tabs Prompt, Cost, Graph and Errors.

class PromptPage {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    const line = (this.line = view.line);
    const edit = (/** @type {string} */ name) => (/** @type {any} */ e) => {
      line.editDraft({ [name]: e.target.value });
      this.paint();
    };
    const code = { spellcheck: "false" };
    this.step = h("select", { "aria-label": "step whose prompt is edited", onchange: (e) => line.setControls({ step: e.target.value }) });
    this.model = h("select", { "aria-label": "model of the draft", onchange: (e) => line.setControls({ model: e.target.value }) });
    this.temperature = h("input", {
      class: "num short", placeholder: "auto", inputmode: "decimal", "aria-label": "temperature of the draft",
      onchange: (e) => view.head.typed("temperature", e.target),
    });
    this.system = h("textarea", { ...code, class: "low", "aria-label": "system prompt", oninput: edit("system") });
    this.prompt = h("textarea", { ...code, "aria-label": "prompt", oninput: edit("prompt") });
    this.fields = h("div", { class: "fields" });
    this.price = h("div", { class: "mut" });
    this.run = h("button", { class: "pri", onclick: () => this.runDraft(false) });
    this.runPins = h("button", { onclick: () => this.runDraft(true) });
    this.drop = h("button", { onclick: async () => {
      line.question = null;
      line.unread = "";
      await line.want("draft_drop");
      this.look();
    } }, "Drop draft");
    this.copy = view.codeButton("Copy as code", "pipeline", "the pipeline with this draft");
    this.head = h("h4", {});
    this.preview = h("div", {});
    this.reply = h("div", {});
    this.lab = h("div", { class: "lab" },
      h("div", { class: "editor", onkeydown: (e) => {
        if (e.key !== "Enter" || !(e.ctrlKey || e.metaKey)) return;
        e.preventDefault();
        this.runDraft(line.state.pins.length > 0);
      } },
      h("div", { class: "bar flat" }, h("label", {}, h("span", {}, "step"), this.step), h("label", {}, h("span", {}, "model"), this.model),
        h("label", {}, h("span", {}, "temperature"), this.temperature)),
      h("label", { class: "stack" }, h("span", {}, "system"), this.system),
      h("label", { class: "stack grow" }, h("span", {}, "prompt"), this.prompt), this.fields, this.price,
      h("div", { class: "bar flat" }, this.run, this.runPins, this.drop, this.copy)),
      h("div", { class: "seen", tabindex: "0", role: "group", "aria-label": "preview" }, this.head, this.preview, this.reply));
    this.none = emptyPage("No step of this pipeline asks a model, so there is no prompt to edit.");
    this.element = h("div", { class: "page" }, this.lab, this.none);
  }

  shown() {
    this.look();
  }

  /** Read the rendered prompt of the present draft; asks no model. */
  look() {
    const { draft } = this.line.state;
    if (draft && !this.line.lost && !this.line.editing.holds()) void this.line.sendDraft({ step: draft.step });
  }

  /** @param {boolean} pins */
  runDraft(pins) {
    const { pins: rows } = this.line.state;
    if (this.run.getAttribute("aria-disabled") !== "true" && (!pins || rows.length)) void this.line.spend("draft_run", { rows: pins ? rows : "current" });
  }

  /** @param {Json | null} [before] */
  paint(before) {
    const { line, view } = this;
    const { state } = line;
    const { draft, pins, controls: c } = state;
    this.lab.hidden = !draft;
    this.none.hidden = Boolean(draft);
    if (!draft) return;
    if (before?.draft && !same([draft, c.record], [before.draft, before.controls.record])) this.look();
    for (const [select, options, value] of /** @type {[HTMLSelectElement, string[], string][]} */ ([[this.model, c.models, c.model], [this.step, c.llm_steps, c.step]])) {
      choices(select, options.map((o) => [o, o]));
      fill(select, value ?? "");
      select.disabled = line.lost !== "" || options.length < 2;
    }
    fill(this.temperature, `${c.temperature ?? ""}`);
    if (!line.editing.holds() && !line.unread) {
      fill(this.prompt, draft.prompt ?? "");
      fill(this.system, draft.system ?? "");
    }
    this.prompt.disabled = this.system.disabled = this.temperature.disabled = this.copy.disabled = line.lost !== "";
    const p = line.preview?.step === draft.step ? line.preview : null;
    const found = fieldsOf(this.prompt.value);
    const unknown = found.filter((f) => (p?.ok ? p.unknown : draft.unknown)?.includes(f));
    const wrong = p && !p.ok && p.error;
    if (view.isNew("fields", [found, unknown, wrong])) {
      const good = found.filter((f) => !unknown.includes(f));
      this.fields.replaceChildren(...solid([
        good.length ? mark("good", `fields ${good.join(", ")}: found`) : found.length ? null : muted("no fields in this prompt"),
        unknown.length && mark("failed", `no column ${unknown.join(", ")}`) || null, wrong && mark("failed", wrong)]));
    }
    const e = line.isEstimating || line.editing.holds() ? null : state.estimate;
    say(this.price, `${draft.changed ? "the draft differs from the notebook" : "as in the notebook"} · ${e ? `Run: ${visible(e.text)}` : "…"}`);
    const off = line.isBusy || unknown.length > 0 || Boolean(wrong);
    say(this.run, `Run draft on record ${count(c.record ?? 0)}`);
    say(this.runPins, `Run draft on ${count(pins.length)} pinned`);
    this.runPins.hidden = !pins.length;
    idle(this.run, off);
    idle(this.runPins, off || !pins.length);
    idle(this.drop, line.lost !== "" || !draft.changed);
    if (view.isNew("rendered", [p?.rendered, p?.record, c.record])) {
      say(this.head, `Prompt as it would be sent for record ${count(p?.record ?? c.record ?? 0)}`);
      this.preview.replaceChildren(p?.rendered ? longText(p.rendered) : muted("No record to fill the fields with yet: Run one makes the steps before it known."));
    }
    if (!view.isNew("reply", [line.tried, draft.step])) return;
    const call = line.tried?.lineage?.find((/** @type {Json} */ s) => s.step === draft.step)?.calls?.[0];
    this.reply.replaceChildren(...(!call ? [] : [
      h("h4", {}, "Reply of the last draft run, ", mark(call.status), call.usd ? ` ${usd(call.usd)}` : ""),
      ...(call.error ? [mark("failed", call.error)] : []), longText(call.text)]));
  }
}

/** A page that is read when it is looked at, and again when the tables change. */
class SidePage {
  /** @param {View} view @param {string} op @param {string} label */
  constructor(view, op, label) {
    this.view = view;
    this.line = view.line;
    this.op = op;
    this.scroll = h("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": label });
    this.foot = h("div", { class: "foot" });
    this.element = h("div", { class: "page" }, this.scroll, this.foot);
  }

  paint() {
    const { data, error } = this.line.side(this.op);
    if (!this.view.isNew(this.op, [data, error, this.line.isBusy])) return;
    this.scroll.replaceChildren(...(error ? [emptyPage(error)] : data ? this.draw(data) : [emptyPage("Reading …")]));
    this.foot.replaceChildren(...(data ? solid(this.below(data)) : []));
  }

  /** @param {Json} _ @returns {Element[]} */
  draw(_) {
    return [];
  }

  /** @param {Json} _ @returns {Kid[]} */
  below(_) {
    return [];
  }
}

/** @param {string[]} names @param {number[]} right which of them stand above figures */
const heads = (names, right) => h("thead", {}, h("tr", {}, ...names.map((name, k) =>
  h("th", { scope: "col", class: right.includes(k) ? "r" : null }, name || h("span", { class: "off" }, "action")))));

class CostPage extends SidePage {
  /** @param {View} view */
  constructor(view) {
    super(view, "cost", "bill");
  }

  /** @param {Json} data */
  draw(data) {
    if (!data.lines.length) return [emptyPage("No call yet, so nothing is paid.")];
    const money = (/** @type {number | null} */ v) => (v === 0 ? "–" : usd(v));
    const row = (/** @type {Json} */ l, /** @type {boolean} */ isTotal) => h("tr", { class: isTotal ? "total" : null },
      h("th", { scope: "row" }, isTotal ? "total" : visible(l.step)), h("td", {}, isTotal ? "" : visible(l.model ?? "")),
      ...[count(l.memo), count(l.new), count(l.failed), amount(l.tokens_in), amount(l.tokens_out), money(l.paid), money(l.saved), money(l.wasted),
        l.estimated == null ? "" : `about ${usd(l.estimated)}`].map((text) => h("td", { class: "r" }, text === "0" ? "–" : text)));
    /** Of each step, all its models together. @type {Map<string, Json>} */
    const steps = new Map();
    for (const { step, paid, estimated } of data.lines) {
      const was = steps.get(step);
      const sum = was && (was.paid == null || paid == null ? null : was.paid + paid);
      steps.set(step, was ? { ...was, paid: sum } : { step, paid, estimated });
    }
    const most = Math.max(1e-12, ...each(steps.values(), (l) => Math.max(l.paid ?? 0, l.estimated ?? 0)));
    const bar = (/** @type {string} */ kind, /** @type {number | null} */ v) => [h("span", { class: "mut" }, kind),
      h("span", { class: "track" }, h("i", { class: kind, style: `width:${(100 * (v ?? 0)) / most}%` })), h("span", { class: "r" }, v == null ? "unknown" : usd(v))];
    return [
      h("table", { class: "plain" }, heads(["step", "model", "memo", "new", "failed", "tokens in", "out", "paid", "saved", "wasted", "estimated"], [2, 3, 4, 5, 6, 7, 8, 9, 10]),
        h("tbody", {}, ...each(data.lines, (l) => row(l, false)), row(data.total, true))),
      h("div", { class: "chart", role: "group", "aria-label": "estimated and paid" }, h("h4", {}, "Estimated and paid"),
        ...each(steps.values(), (l) => h("div", { class: "of" }, h("b", {}, visible(l.step)), ...bar("estimated", l.estimated), ...bar("paid", l.paid))))];
  }

  /** @param {Json} data */
  below(data) {
    return [h("span", {}, visible(data.note ?? ""))];
  }
}

class GraphPage extends SidePage {
  /** @param {View} view */
  constructor(view) {
    super(view, "graph", "graph of the steps");
  }

  /** Name under which the records of a step are asked for; null: there are none. @param {string} step */
  tableOf(step) {
    const { steps, tables } = this.line.state;
    if (steps[steps.length - 1]?.name === step && FINAL in tables) return FINAL;
    return step in tables ? step : null;
  }

  /** @param {string} step */
  open(step) {
    const name = this.tableOf(step);
    if (name === null) return this.view.announce("No records yet.");
    if (name !== this.line.table.query.step) this.line.table.set({ step: name });
    this.view.show("records", true);
  }

  /** @param {Json} data */
  draw(data) {
    if (!data.nodes.length) return [emptyPage("There is no pipeline to draw.")];
    const tip = `${this.view.id}-tip`;
    const edges = each(data.edges, (e) => {
      const [x, y] = e.points[Math.floor(e.points.length / 2)] ?? [0, 0];
      return svg("g", {}, svg("polyline", { points: e.points.join(" "), class: "edge", "marker-end": `url(#${tip})` }),
        e.label && svg("text", { x, y: y - 4, class: "small" }, visible(e.label)));
    });
    const nodes = each(data.nodes, (n) => {
      const known = this.tableOf(n.id) !== null;
      return svg("g", {
        class: `node ${n.kind === "llm" ? "paid" : ""}`, role: "button", tabindex: known ? 0 : -1, "aria-disabled": !known,
        "aria-label": `${visible(n.name)}, ${visible(n.badge)}: ${known ? "show its records" : "no records yet"}`,
        onclick: () => this.open(n.id),
        onkeydown: (e) => {
          if (e.key !== "Enter" && e.key !== " ") return;
          e.preventDefault();
          this.open(n.id);
        },
      }, svg("title", {}, visible(n.name)), svg("rect", { x: n.x, y: n.y, width: n.w, height: n.h, rx: 4 }),
      svg("svg", { x: n.x + 10, y: n.y, width: Math.max(0, n.w - 12), height: n.h }, // keeps long names inside
        svg("text", { y: 18, class: "name" }, visible(n.name)), svg("text", { y: 35, class: "small" }, visible(n.badge))));
    });
    const [width, height] = [data.width + 8, data.height + 8];
    return [svg("svg", { class: "graph", width, height, viewBox: `-4 -4 ${width} ${height}`, role: "group", "aria-label": "steps" },
      svg("defs", {}, svg("marker", { id: tip, viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
        svg("path", { d: "M0 1 8 4 0 7z", class: "tip" }))), ...edges, ...nodes)];
  }

  below() {
    return ["Click a step to see its records. Steps that cost have the thick blue frame."];
  }
}

class ErrorsPage extends SidePage {
  /** @param {View} view */
  constructor(view) {
    super(view, "errors", "errors");
  }

  /** @param {Json} data */
  draw(data) {
    if (!data.groups.length) return [emptyPage(`No call has failed${this.line.isRunning ? " so far" : ""}.`)];
    const show = () => {
      this.line.table.set({ step: FINAL, status: "failed", search: "", where: [] });
      this.view.show("records", true);
    };
    return [h("table", { class: "plain errors" }, heads(["calls", "step", "cause", "first example", "what to do", ""], [0]),
      h("tbody", {}, ...each(data.groups, (g) => h("tr", {}, h("td", { class: "r" }, count(g.n)), h("td", {}, visible(g.step)),
        h("td", {}, mark("failed", g.cause ?? g.kind), h("div", { class: "mut" }, visible(g.kind))),
        h("td", {}, longText(g.example), g.input && h("div", { class: "mut" }, visible(clip(g.input, 300)[0]))),
        h("td", {}, visible(g.what_to_do ?? "")), h("td", {}, g.rows.length ? h("button", { onclick: show }, `Show ${count(g.n)}`) : null))))) ];
  }

  /** @param {Json} data @returns {Kid[]} */
  below(data) {
    if (!data.groups.length) return [];
    const retry = h("button", { onclick: () => this.line.spend("retry_failed") }, `Retry ${plural(this.line.state.errors?.n ?? 0, "failed call")}`);
    idle(retry, this.line.isBusy);
    return [h("code", {}, "result.retry_failed()"), h("span", { class: "sp" }), retry];
  }
}

/** One line for each model: the function is called once for each, its views share what it made. */
export default () => {
  /** @type {Line | null} */
  let line = null;
  return {
    /** @param {{model: Model}} given */
    initialize({ model }) {
      const made = (line = new Line(model));
      return () => made.close();
    },
    /** @param {{model: Model, el: HTMLElement}} given */
    render({ model, el }) {
      const alone = line === null; // a host that knows no initialize
      const mine = (line ??= new Line(model));
      const view = new View(mine, el);
      return () => {
        view.close();
        if (!alone || mine.views.size) return;
        mine.close();
        line = null;
      };
    },
  };
};
