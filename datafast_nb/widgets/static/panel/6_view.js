// One drawing of a panel. Several may share a line.

const TABS = ["records", "record", "prompt", "cost", "graph", "errors"];

/** @typedef {{element: HTMLElement, paint: (before?: Json | null) => void, shown?: () => void, close?: () => void}} Page */

class View {
  /** @param {Line} line @param {HTMLElement} el */
  constructor(line, el) {
    this.line = line;
    this.el = el;
    this.id = `dfnb${Math.random().toString(36).slice(2, 9)}`;
    this.tab = "records";
    this.wasLost = false;
    /** A click on Run one here: its record is shown when it is there. */
    this.awaits = false;
    /** The focus was in here last. */
    this.inside = false;
    this.off = new AbortController();
    /** @type {Map<string, string>} */
    this.painted = new Map();
    this.live = h("div", { class: "off", role: "status", "aria-live": "polite" });
    this.head = new Head(this);
    this.records = new RecordsPage(this);
    this.record = new RecordPage(this);
    this.prompt = new PromptPage(this);
    this.cost = new CostPage(this);
    this.graph = new GraphPage(this);
    this.errors = new ErrorsPage(this);
    /** @type {Page[]} */
    this.pages = [this.records, this.record, this.prompt, this.cost, this.graph, this.errors];
    this.tabs = TABS.map((name) => h("button", {
      role: "tab", id: `${this.id}-${name}`, "aria-controls": `${this.id}-p-${name}`, "data-tab": name, onclick: () => this.show(name),
    }, name[0].toUpperCase() + name.slice(1)));
    this.panels = TABS.map((name, k) => h("div", {
      role: "tabpanel", id: `${this.id}-p-${name}`, "aria-labelledby": `${this.id}-${name}`, "data-p": name,
    }, this.pages[k].element));
    this.root = h("div", { class: "dfnb mathjax_ignore tex2jax_ignore", role: "region" }, ...this.head.elements,
      h("div", { role: "tablist", "aria-label": "panel", onkeydown: (e) => this.tabKey(e) }, ...this.tabs), ...this.panels, this.live);
    this.guard();
    this.root.tabIndex = -1;
    el.append(this.root);
    this.watchTheme();
    this.hideStatic();
    let isFirst = true;
    const resized = new ResizeObserver(() => {
      if (isFirst && this.root.clientWidth < 760) this.head.fold();
      isFirst = isFirst && !this.root.clientWidth;
      this.records.grid.soon();
    });
    resized.observe(this.root);
    resized.observe(this.records.grid.scroller);
    this.ends(() => resized.disconnect());
    this.show("records");
    this.paint = (/** @type {What} */ what, /** @type {Json | null} */ before) => this.paintAll(what, before);
    line.views.add(this.paint);
    line.table.check();
    this.paintAll("state", null);
  }

  /** @param {() => void} work done when the view is closed */
  ends(work) {
    this.off.signal.addEventListener("abort", work, { once: true });
  }

  close() {
    this.line.views.delete(this.paint);
    this.off.abort();
    for (const page of this.pages) page.close?.();
    this.root.remove();
  }

  /** Keys stay here: a notebook deletes the cell on "d d", wherever the focus is in it. */
  guard() {
    this.root.addEventListener("focusin", () => (this.inside = true));
    this.root.addEventListener("focusout", (e) => {
      const left = /** @type {HTMLElement} */ (e.target);
      if (left.isConnected && left.offsetParent !== null && !left.matches(":disabled")) this.inside = false;
    });
    this.root.addEventListener("click", () => this.keepFocus());
    this.root.addEventListener("keydown", (e) => {
      const saves = (e.ctrlKey || e.metaKey) && !e.shiftKey && !e.altKey && e.key.toLowerCase() === "s";
      if (!saves) e.stopPropagation();
    });
  }

  /** Where what had the focus is gone, the panel keeps it: the notebook's keys act on cells. */
  keepFocus() {
    const at = document.activeElement;
    const isGone = at === document.body || (this.root.contains(at) && at?.matches(":disabled, [hidden] *"));
    if (this.inside && isGone) this.root.focus({ preventScroll: true });
  }

  watchTheme() {
    const { body, documentElement: html } = document;
    const system = matchMedia("(prefers-color-scheme: dark)");
    const look = () => put(this.root, "data-theme", themeOf({
      vscode: body.dataset.vscodeThemeKind, jupyter: body.dataset.jpThemeLight, colab: html.getAttribute("theme") ?? undefined,
      luma: this.el.isConnected ? lumaOf(getComputedStyle(this.el).color) : null, system: system.matches,
    }));
    const observer = new MutationObserver(look);
    for (const at of [body, html]) observer.observe(at, { attributes: true });
    system.addEventListener("change", look, { signal: this.off.signal });
    look();
    const frame = requestAnimationFrame(look); // colours are known once it is attached
    this.ends(() => {
      observer.disconnect();
      cancelAnimationFrame(frame);
    });
  }

  /** The static display of the same, an output before the panel, is hidden while the panel lives. */
  hideStatic() {
    let tries = 0;
    let frame = 0;
    const look = () => {
      let at = this.el.closest(".jp-OutputArea-child, .output_area, [data-output]");
      if (!this.el.isConnected || !at) {
        if (++tries < 120) frame = requestAnimationFrame(look);
        return;
      }
      do at = at.previousElementSibling; while (at && !at.querySelector(".dfnb-static"));
      if (!at) return;
      const hidden = /** @type {HTMLElement} */ (at);
      const { dataset, style } = hidden;
      dataset.dfnbHides = String(Number(dataset.dfnbHides ?? 0) + 1);
      style.display = "none";
      this.ends(() => {
        dataset.dfnbHides = String(Number(dataset.dfnbHides) - 1);
        if (dataset.dfnbHides !== "0") return; // another view of the panel
        style.removeProperty("display");
        delete dataset.dfnbHides;
      });
    };
    look();
    this.ends(() => cancelAnimationFrame(frame));
  }

  /** @param {string} text */
  announce(text) {
    if (text) say(this.live, visible(text));
  }

  /** @param {HTMLButtonElement} button @param {() => Promise<string | null>} read */
  async copy(button, read) {
    const text = await read();
    if (text === null) return;
    const done = await copyText(text);
    const was = (button.dataset.text ??= button.textContent ?? "");
    button.style.minWidth ||= `${button.offsetWidth}px`;
    say(button, done ? "Copied" : "No clipboard");
    this.announce(done ? "Copied." : "Nothing can be copied here.");
    this.line.later(() => say(button, was), 1_200);
  }

  /** @param {string} text @param {string} what @param {string} title */
  codeButton(text, what, title) {
    const button = h("button", { class: "link", title, onclick: () => this.copy(button, async () => {
      const reply = await this.line.want("code", { what });
      return reply.ok ? reply.code : null;
    }) }, text);
    return button;
  }

  /** Whether something that is drawn as a whole has changed. @param {string} name @param {any} data */
  isNew(name, data) {
    const key = JSON.stringify(data) ?? "";
    if (this.painted.get(name) === key) return false;
    this.painted.set(name, key);
    return true;
  }

  /** @param {KeyboardEvent} e */
  tabKey(e) {
    if (e.key === "Escape" && this.tab === "record") this.record.back();
    const k = TABS.indexOf(this.tab);
    const to = new Map([["ArrowRight", k + 1], ["ArrowLeft", k - 1], ["Home", 0], ["End", TABS.length - 1]]).get(e.key);
    if (to === undefined) return;
    e.preventDefault();
    this.show(TABS[(to + TABS.length) % TABS.length], true);
  }

  /** @param {string} name @param {boolean} [focus] on its tab */
  show(name, focus = false) {
    this.tab = name;
    this.tabs.forEach((tab, k) => {
      const on = TABS[k] === name;
      put(tab, "aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      this.panels[k].hidden = !on;
      if (on && focus) tab.focus({ preventScroll: true });
    });
    const page = this.pages[TABS.indexOf(name)];
    page.shown?.();
    page.paint();
  }

  /** @param {What} what @param {Json | null} before */
  paintAll(what, before) {
    const { state, lost } = this.line;
    if (what === "state") {
      this.announce(lost && !this.wasLost ? lost : announce(before, state));
      this.wasLost = lost !== "";
      if (this.awaits && before && state.focus && !same(before.focus, state.focus)) {
        this.awaits = false;
        this.record.stage = { step: -1, call: 0 };
        if (state.focus.row !== null) this.records.grid.at.row = state.focus.row;
        if (this.tab === "records") this.show("record");
      }
      put(this.root, "aria-label", `${visible(state.title)} panel`);
      put(this.root, "data-phase", state.phase);
      say(this.tabs[0], `Records ${count(state.tables[FINAL]?.n ?? 0)}`);
      say(this.tabs[5], `Errors ${count(state.errors?.n ?? 0)}`);
      this.head.paint();
      this.pages[TABS.indexOf(this.tab)].paint(before);
      return this.keepFocus();
    }
    const page = this.pages[TABS.indexOf(this.tab)];
    if (what === "table" ? page === this.records : what === "record" ? page === this.record : true) page.paint();
    this.keepFocus();
  }
}

/** Title, controls, progress and messages. */
class Head {
  /** @param {View} view */
  constructor(view) {
    this.view = view;
    const line = (this.line = view.line);
    this.open = true;
    const number = (/** @type {string} */ name, /** @type {string} */ label, /** @type {Props} */ props = {}) =>
      h("input", { class: "num", inputmode: "decimal", "aria-label": label, autocomplete: "off", onchange: (e) => this.typed(name, e.target), ...props });
    const short = { class: "num short" };
    const pick = (/** @type {string} */ name, /** @type {string} */ label) =>
      h("select", { "aria-label": label, onchange: (e) => line.setControls({ [name]: e.target.value }) });
    const field = (/** @type {string} */ label, /** @type {Kid[]} */ ...inputs) => h("label", {}, h("span", {}, label), ...inputs);
    const move = (/** @type {number} */ by) => {
      const { record, n_records: n } = line.state.controls;
      const to = Math.max(0, Math.min((n ?? Infinity) - 1, (record ?? 0) + by));
      if (to !== record && !line.lost) line.setControls({ record: to });
    };
    this.title = h("b", { class: "title", dir: "auto" });
    this.stale = h("span", { class: "mut stale" });
    this.memo = h("span", { class: "wide" });
    this.today = h("span", { class: "mut wide" });
    this.code = view.codeButton("Copy code", "run", "Python that does the same");
    this.freeze = h("button", { class: "link", title: "put the static display in the place of this panel", onclick: () => line.want("freeze") }, "Freeze");
    this.runOne = h("button", { onclick: () => this.runRecord() }, "Run one");
    this.previous = h("button", { class: "ic", "aria-label": "previous record", onclick: () => move(-1) }, "‹");
    this.record = number("record", "record to run alone", short);
    this.next = h("button", { class: "ic", "aria-label": "next record", onclick: () => move(1) }, "›");
    this.run = h("button", { class: "pri", onclick: () => line.spend("run", { confirmed: false }) }, "Run");
    this.stop = h("button", { class: "stop", onclick: () => line.stop() }, "Stop");
    this.slider = h("input", {
      type: "range", min: "0", max: "1000", step: "1", "aria-label": "limit, slider",
      oninput: () => line.setControls({ limit: sliderToLimit(Number(this.slider.value), this.most) }),
    });
    this.limit = number("limit", "limit: records into the first LLM step; empty means all", { placeholder: "all" });
    this.model = pick("model", "model");
    this.budget = number("budget", "budget in dollars for one click; empty means none", { placeholder: "none" });
    this.settings = h("button", { class: "link", onclick: () => this.fold(!this.open) }, "Settings");
    this.step = pick("step", "step that the settings are of");
    this.temperature = number("temperature", "temperature; empty means the model's own", { ...short, placeholder: "auto" });
    this.n = number("n", "answers for each record", short);
    this.concurrency = number("concurrency", "calls in flight", short);
    this.controls = h("div", { class: "bar ctl" },
      h("span", { class: "joined" }, this.runOne, this.previous, this.record, this.next), this.run, this.stop,
      field("limit", this.slider, this.limit), h("span", { class: "sp" }), field("model", this.model), field("budget", this.budget), this.settings);
    this.more = h("div", { class: "bar more" }, field("step", this.step), field("temperature", this.temperature),
      field("answers each", this.n), field("in flight", this.concurrency));
    this.parts = ["memo", "new", "failed"].map((kind) => h("i", { class: kind }));
    this.bar = h("div", { class: "prog", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100", "aria-label": "calls answered" }, ...this.parts);
    this.words = h("div", { class: "say" });
    this.banner = h("div", { class: "banner", role: "group", "aria-label": "message", hidden: true });
    this.elements = [
      h("div", { class: "bar top" }, this.title, this.stale, h("span", { class: "sp" }), this.memo, this.today, this.code, this.freeze),
      this.controls, this.more, this.bar, this.words, this.banner];
  }

  /** Show or hide the settings that are changed seldom. @param {boolean} [open] */
  fold(open = false) {
    this.open = open;
    this.paintControls();
  }

  /** Largest limit that the slider reaches. */
  get most() {
    const { limit_max: most, n_records: n, limit } = this.line.state.controls;
    return Math.max(1, most ?? n ?? Math.max(10_000, limit ?? 0));
  }

  async runRecord() {
    if (this.line.isBusy) return;
    this.view.awaits = this.view.tab !== "prompt";
    const reply = await this.line.spend("run_one", { record: this.line.state.controls.record });
    if (!reply?.ok || reply.busy) this.view.awaits = false;
  }

  /** @param {string} name @param {HTMLInputElement} input */
  typed(name, input) {
    const value = typed(input.value);
    const whole = ["limit", "record", "n", "concurrency"].includes(name);
    const least = ["n", "concurrency", "limit"].includes(name) ? 1 : 0;
    const mayBeEmpty = ["limit", "budget", "temperature"].includes(name);
    if (value === undefined || (value === null ? !mayBeEmpty : value < least || (whole && value !== Math.round(value)))) {
      const what = name === "budget" ? "amount of dollars" : whole ? `${name}: it is a whole number from ${least} up` : name;
      this.line.complain(`${clip(input.value, 40)[0] || "nothing"} is no ${what}`);
    } else {
      const n = this.line.state.controls.n_records;
      this.line.error = "";
      this.line.setControls({ [name]: name === "record" && n ? Math.min(Number(value), n - 1) : value });
    }
    this.paintControls(true);
  }

  paint() {
    const { state } = this.line;
    const { memo } = state;
    say(this.title, visible(state.title));
    say(this.stale, visible(state.stale ?? ""));
    put(this.stale, "title", this.stale.textContent || null);
    if (this.view.isNew("memo", memo)) {
      this.memo.replaceChildren(...solid([memo && mark("memo", `${count(memo.answers)} in the memo`)]));
      const today = !memo ? "" : memo.paid_today == null ? "today unknown" : `today ${usd(memo.paid_today)}`;
      say(this.today, today && memo.budget_today != null ? `${today} of ${limitUsd(memo.budget_today)}` : today);
    }
    this.paintControls();
    this.paintProgress();
    this.paintBanner();
  }

  /** @param {boolean} [force] also in the field that has the focus */
  paintControls(force = false) {
    const { line } = this;
    const { state } = line;
    const c = state.controls;
    const lost = line.lost !== "";
    this.controls.hidden = state.kind === "result" && !c.llm_steps.length;
    this.more.hidden = this.controls.hidden || !this.open;
    put(this.settings, "aria-expanded", String(this.open));
    say(this.run, runLabel(state, line.isEstimating));
    put(this.run, "title", state.estimate?.text ? visible(state.estimate.text) : null);
    for (const button of [this.run, this.runOne]) idle(button, line.isBusy);
    idle(this.stop, !line.canStop);
    for (const [input, value] of this.fields(c)) {
      if (force) input.value = value;
      else fill(input, value);
      input.disabled = lost;
    }
    // Where it is dragged to it stays: rounding must not move it under the hand.
    if (sliderToLimit(Number(this.slider.value), this.most) !== c.limit) this.slider.value = String(limitToSlider(c.limit, this.most));
    put(this.slider, "aria-valuetext", c.limit == null ? "all" : count(c.limit));
    this.slider.disabled = this.code.disabled = lost;
    this.freeze.disabled = lost || line.isRunning; // a run without its Stop
    for (const [select, options, value] of this.selects(c)) {
      choices(select, options.map((o) => [o, o]));
      fill(select, value ?? "");
      select.disabled = lost || options.length < 2;
    }
    idle(this.previous, lost || !c.record);
    idle(this.next, lost || (c.n_records != null && (c.record ?? 0) >= c.n_records - 1));
  }

  /** @param {Json} c @returns {[HTMLInputElement, string][]} */
  fields(c) {
    return [
      [this.record, `${c.record ?? 0}`], [this.limit, `${c.limit ?? ""}`], [this.budget, c.budget == null ? "" : limitUsd(c.budget)],
      [this.temperature, `${c.temperature ?? ""}`], [this.n, `${c.n ?? 1}`], [this.concurrency, `${c.concurrency}`]];
  }

  /** @param {Json} c @returns {[HTMLSelectElement, string[], string][]} */
  selects(c) {
    return [[this.model, c.models, c.model], [this.step, c.llm_steps, c.step]];
  }

  paintProgress() {
    const { state } = this.line;
    const p = state.progress;
    const widths = barParts(p);
    [widths.memo, widths.new, widths.failed].forEach((width, k) => (this.parts[k].style.width = `${width}%`));
    put(this.bar, "aria-valuenow", String(p?.total ? Math.min(100, Math.floor((100 * p.done) / p.total)) : 0));
    put(this.bar, "aria-valuetext", p ? `${count(p.done)} of ${plural(p.total, "call")}` : "nothing has run");
    const words = this.status(state, p);
    const key = words.map((w) => w.textContent).join(" · ");
    if (!this.view.isNew("say", key)) return;
    this.words.replaceChildren(...words);
    put(this.words, "title", key);
  }

  /** @param {Json} state @param {Json | null} p @returns {HTMLElement[]} */
  status(state, p) {
    const { line } = this;
    const bold = (/** @type {string} */ text) => [h("b", {}, text)];
    const { isRunning } = line;
    const words = line.asked?.queued ? bold("Queued: kernel is busy") : line.stopping?.words ? bold(line.stopping.words) : line.asked ? bold("Starting") : [];
    if (isRunning && p) {
      const live = p.lines.filter((/** @type {Json} */ l) => l.done < l.total);
      const where = live.length === 1 ? ` at ${visible(live[0].step)}` : p.lines.length > 1 ? " calls" : "";
      const stops = state.phase === "stopping" || line.stopping;
      words.push(h("span", {}, stops && "Stopping, ", ...bold(`${count(p.done)} of ${count(p.total)}`), where));
    } else if (!words.length) words.push(h("span", {}, visible(state.said)));
    if (p) {
      words.push(mark("memo", `${count(p.memo)} memo`), mark("new", `${count(p.new)} new`), p.failed ? mark("failed", `${count(p.failed)} failed`) : muted("✕ 0 failed"));
      const { budget } = p;
      words.push(h("span", {}, `${p.paid == null ? "cost unknown" : usd(p.paid)}${budget == null ? "" : ` of ${limitUsd(budget)}`}`));
    }
    if (isRunning && p) {
      const rate = p.rate ? `${p.rate < 9.95 ? p.rate.toFixed(1) : count(p.rate)} per second` : "";
      words.push(muted([p.eta == null ? "" : `${seconds(p.eta)} left`, rate, p.in_flight ? `${count(p.in_flight)} in flight` : ""].filter(Boolean).join(", ")));
    } else if (!isRunning && state.estimate) {
      words.push(muted(`next: ${state.estimate.text}`));
      for (const note of state.estimate.notes ?? []) words.push(h("span", { class: "warn" }, "! ", visible(note)));
    }
    return words;
  }

  paintBanner() {
    const { line, banner, view } = this;
    const { error } = line.state;
    const ask = line.question;
    if (!view.isNew("banner", [line.lost, ask?.words, line.error, error])) return;
    banner.hidden = !(line.lost || ask || line.error || error);
    banner.className = `banner${ask && !line.lost ? "" : " bad"}`;
    const grow = { class: "grow" };
    if (line.lost) banner.replaceChildren(h("b", {}, "!"), visible(line.lost));
    else if (ask) {
      const no = h("button", { onclick: () => line.answerQuestion(false) }, "Cancel");
      banner.replaceChildren(h("span", grow, visible(ask.words)), h("button", { class: "pri", onclick: () => line.answerQuestion(true) }, "Run it"), no);
      view.announce(`${ask.words} Run it or cancel.`);
      if (view.root.contains(document.activeElement)) no.focus({ preventScroll: true });
    } else if (line.error) {
      banner.replaceChildren(h("b", {}, "✕"), h("span", grow, visible(line.error)), h("button", { class: "link", onclick: () => line.complain("") }, "Dismiss"));
      view.announce(line.error);
    } else if (error) banner.replaceChildren(h("b", {}, `✕ ${visible(error.title)}`), h("span", grow, visible(error.text)));
  }
}
