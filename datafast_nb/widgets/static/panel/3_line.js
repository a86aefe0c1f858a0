// The line to Python: one for a model, whatever number of views it has.

/** @typedef {{op: string, queued: boolean, acked: boolean, sent: boolean}} Asked */
/** @typedef {{acked: boolean, words: string}} Stopping */
/** @typedef {"state" | "table" | "record" | "draft" | "side"} What what has changed */

/** Everything that is asked of Python, and what it said. */
export class Line {
  /** @param {Model} model */
  constructor(model) {
    this.model = model;
    /** @type {Json} */
    this.state = model.get("state");
    this.requests = new Requests();
    /** @type {Map<number, (reply: Json) => void>} */
    this.open = new Map();
    /** @type {Set<(what: What, before: Json | null) => void>} */
    this.views = new Set();
    /** Why nothing can be asked any more; "" while all is well. */
    this.lost = "";
    /** What was clicked and costs, until the state says that it runs. @type {Asked | null} */
    this.asked = null;
    /** @type {{words: string, op: string, fields: Json} | null} */
    this.question = null;
    /** @type {Stopping | null} */
    this.stopping = null;
    this.error = "";
    /** The record of the Record tab. @type {{step: string, row: number | null, data: Json | null, error: string, version: number} | null} */
    this.record = null;
    /** What the draft made last. @type {Json | null} */
    this.tried = null;
    /** @type {Json | null} */
    this.preview = null;
    /** Bill, graph and errors, read when they are looked at. @type {Map<string, {key: string, data: Json | null, error: string, comes: boolean}>} */
    this.sides = new Map();
    /** @type {Set<ReturnType<typeof setTimeout>>} */
    this.timers = new Set();
    this.setting = coalesce((controls) => this.tellControls(controls), 120);
    this.selecting = coalesce((fields) => void this.ask("select", fields), 150);
    this.editing = coalesce((fields) => this.sendDraft(fields), 250);
    /** Controls as they were set here and not yet taken by Python. @type {Json} */
    this.local = {};
    /** The controls as Python said them last. @type {Json} */
    this.told = this.state.controls;
    /** Why the last edit of the draft was refused: Python still has the one before. */
    this.unread = "";
    /** The estimate as it was when a control was set that changes it. @type {string | null} */
    this.outdated = null;
    this.table = new Table(this);
    this.polling = false;
    /** @type {(() => void)[]} */
    this.undo = [];
    this.hear("change:state", () => this.take(model.get("state")));
    this.hear("msg:custom", (/** @type {any} */ message) => this.receive(message));
    this.hear("comm_live_update", () => this.lose("The kernel is gone"));
    this.hear("comm:close", () => this.lose("This panel was closed"));
    this.watchKernel();
    const timer = setInterval(() => this.poll(), POLL_MS);
    this.undo.push(() => clearInterval(timer));
  }

  /** @param {string} name @param {(...args: any[]) => void} heard */
  hear(name, heard) {
    this.model.on(name, heard);
    this.undo.push(() => this.model.off(name, heard));
  }

  /** JupyterLab's kernel, where there is one; not a documented part of anywidget. */
  get kernel() {
    return this.model.widget_manager?.kernel;
  }

  watchKernel() {
    const { kernel } = this;
    /** @type {[string, (sender: any, status: any) => void][]} */
    const watched = [
      ["statusChanged", (_, status) => {
        if (/restarting/.test(status)) this.lose("Kernel restarted");
        else if (status === "dead" || status === "terminating") this.lose("The kernel has ended");
      }],
      ["connectionStatusChanged", (_, status) => {
        if (status === "disconnected") this.lose("The kernel is disconnected");
        else if (status === "connected" && this.lost) this.rejoin();
      }],
      ["disposed", () => this.lose("The kernel is gone")],
    ];
    for (const [name, heard] of watched) {
      const signal = kernel?.[name];
      if (typeof signal?.connect !== "function") continue;
      signal.connect(heard);
      this.undo.push(() => signal.disconnect?.(heard));
    }
  }

  /** @param {string} why */
  lose(why) {
    if (this.lost && why !== "Kernel restarted") return;
    const n = this.state.memo?.answers;
    const kept = n ? `; ${count(n)} answers are cached` : "";
    this.lost = `${why}. Re-run this cell${kept}`;
    this.asked = this.question = this.stopping = null;
    for (const control of [this.setting, this.selecting, this.editing]) control.drop();
    for (const [id, answer] of this.open) answer({ id, ok: false, error: this.lost });
    this.open.clear();
    this.tell("state", this.state);
  }

  /** The kernel can be heard again. One that was started anew knows nothing of this panel and stays silent. */
  rejoin() {
    const why = this.lost;
    this.lost = "";
    void this.ask("poll").then((reply) => reply.ok && this.take(reply.state));
    this.lost = why;
  }

  /** @param {What} what @param {Json | null} [before] */
  tell(what, before = null) {
    for (const view of [...this.views]) view(what, before);
  }

  /** @param {() => void} work @param {number} ms */
  later(work, ms) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      work();
    }, ms);
    this.timers.add(timer);
    return () => {
      clearTimeout(timer);
      this.timers.delete(timer);
    };
  }

  /** A new state. @param {Json | null | undefined} state */
  take(state) {
    if (!state?.controls || !state.tables) return;
    const before = this.state;
    this.state = { ...state, controls: { ...state.controls, ...this.local } };
    this.told = state.controls;
    if (before.draft?.step !== state.draft?.step) this.unread = ""; // another prompt is edited
    if (this.lost || before.session !== state.session) { // what was asked for meanwhile is gone
      this.table.version = -1;
      this.sides.clear();
    }
    this.lost = ""; // what can still be heard is not lost
    if (this.asked?.acked) this.asked = null;
    if (!this.isRunning) this.stopping = null;
    this.table.check();
    const focus = state.focus;
    if (focus && !same(focus, before.focus)) {
      const isDraft = state.what === "draft_run";
      void this.openRecord(focus.step, focus.row).then(() => {
        if (isDraft) this.tried = this.record?.data ?? null;
        this.tell("draft");
      });
    } else if (this.record?.data && this.record.version !== this.version(this.record.step)) {
      void this.openRecord(this.record.step, this.record.row, true);
    }
    this.tell("state", before);
  }

  /** @param {string} step */
  version(step) {
    return this.state.tables[step]?.version ?? 0;
  }

  /** @param {any} message */
  receive(message) {
    const answer = this.open.get(message?.id);
    if (!answer) return; // of another window, or of a line that was lost
    this.open.delete(message.id);
    answer(message);
  }

  /** @param {string} op @param {Json} [fields] @returns {Promise<Json>} */
  ask(op, fields = {}) {
    const id = this.requests.take(op);
    return new Promise((resolve) => {
      if (this.lost) return resolve({ id, ok: false, error: this.lost });
      this.open.set(id, resolve);
      try {
        this.model.send({ id, op, ...fields });
        this.listenFor({ id, op, ...fields });
      } catch (error) {
        this.open.delete(id);
        resolve({ id, ok: false, error: String(error) });
      }
    });
  }

  /** Send a message again that was lost on its way; Python takes no message twice. @param {Json} message @param {number} [left] */
  listenFor(message, left = 4) {
    this.later(async () => {
      if (!this.open.has(message.id) || this.lost || !left) return;
      if (await this.leaveSubshell() && this.open.has(message.id) && !this.lost) this.model.send(message);
      this.listenFor(message, left - 1);
    }, UNHEARD_MS);
  }

  /**
   * JupyterLab sends the messages of widgets to a thread of the kernel of their own, a subshell. After a restart it may
   * end the new one with the old widgets, and what is sent there is lost: go by another way. True: it was so.
   */
  async leaveSubshell() {
    const pause = () => new Promise((resolve) => this.later(() => resolve(null), 200));
    try {
      const comm = (await this.model.widget_manager.get_model(this.state.model)).comm?.jsServicesComm;
      if (!comm?.subshellId) return comm?.commsOverSubshells === "disabled";
      const { content } = await this.kernel.requestListSubshell({}).done;
      if (content.subshell_id.includes(comm.subshellId)) return false; // it is only late
      comm.commsOverSubshells = "disabled";
      await pause();
      if (comm.subshellId) comm.commsOverSubshells = "perCommTarget"; // a new one
      await pause();
      return true;
    } catch {
      return false; // another host: nothing is known of its ways
    }
  }

  /** The reply, or null where something newer of the kind was asked. @param {string} op @param {Json} fields */
  async askNewest(op, fields) {
    const id = this.requests.next;
    const reply = await this.ask(op, fields);
    return this.requests.isNewest(op, id) ? reply : null;
  }

  /** Ask, and show what went wrong. @param {string} op @param {Json} [fields] */
  async want(op, fields) {
    const reply = await this.ask(op, fields);
    if (!reply.ok) this.complain(reply.error);
    return reply;
  }

  /** @param {string} error */
  complain(error) {
    if (this.lost) return;
    this.error = error;
    this.tell("state", this.state);
  }

  poll() {
    if (!this.state.poll || this.polling || this.lost || document.hidden) return;
    this.polling = true;
    void this.ask("poll").then((reply) => {
      this.polling = false;
      if (reply.ok) this.take(reply.state);
    });
  }

  get isRunning() {
    return BUSY.includes(this.state.phase);
  }

  /** Something that costs is asked for or on its way: a further click does nothing. */
  get isBusy() {
    return this.asked !== null || this.isRunning || this.lost !== "";
  }

  get canStop() {
    return !this.lost && (this.isRunning || this.asked !== null || Boolean(this.state.waiting));
  }

  /** Ask for something that costs. @param {string} op @param {Json} [fields] */
  async spend(op, fields = {}) {
    if (this.isBusy) return null;
    const said = [this.setting.flush(), this.editing.flush()]; // the controls and the draft as they stand here
    /** @type {Asked} */
    const asked = (this.asked = { op, queued: false, acked: false, sent: false });
    this.question = null;
    this.error = "";
    const forget = this.later(() => {
      asked.queued = true;
      this.tell("state", this.state);
    }, QUEUED_MS);
    this.tell("state", this.state);
    const refused = (await Promise.all(said)).find((r) => r && !r.ok)?.error ?? (op.startsWith("retry") ? "" : this.unread);
    if (this.asked !== asked) return forget(), null; // it was stopped before it was sent
    asked.sent = true;
    const reply = refused ? { ok: false, error: refused } : await this.ask(op, fields);
    forget();
    if (this.asked !== asked) return reply;
    asked.queued = false;
    asked.acked = true;
    if (!reply.ok || reply.ask || reply.busy || this.isRunning) this.asked = null;
    // The state says that it runs; of one that is over at once it may say nothing.
    else this.later(() => {
      if (this.asked === asked) this.asked = null;
      this.tell("state", this.state);
    }, 1_000);
    if (reply.ask) this.question = { words: reply.ask, op, fields };
    if (!reply.ok) this.complain(reply.error);
    this.tell("state", this.state);
    return reply;
  }

  /** @param {boolean} yes */
  answerQuestion(yes) {
    const asked = this.question;
    this.question = null;
    this.tell("state", this.state);
    if (yes && asked) void this.spend(asked.op, { ...asked.fields, confirmed: true });
  }

  /** Stop: by a message; where none comes through and a cell of ours blocks, by an interrupt. */
  async stop() {
    if (!this.canStop || (this.stopping && !this.stopping.words)) return;
    if (this.asked && !this.asked.sent) this.asked = null;
    /** @type {Stopping} */
    const stopping = (this.stopping = { acked: false, words: "" });
    this.tell("state", this.state);
    const canInterrupt = typeof this.kernel?.interrupt === "function";
    const forget = this.later(() => {
      const { waiting } = this.state;
      const step = stopStep({ acked: stopping.acked, ms: STOP_ACK_MS, waiting, canInterrupt });
      if (step === "interrupt") {
        stopping.words = "Interrupting the cell that waits for the run";
        Promise.resolve(this.kernel.interrupt()).catch((/** @type {unknown} */ e) => this.complain(String(e)));
      } else if (step === "words") {
        stopping.words = "The kernel is busy: in the notebook press I, I to interrupt it";
      }
      this.tell("state", this.state);
    }, STOP_ACK_MS);
    const reply = await this.ask("stop");
    forget();
    stopping.acked = true;
    stopping.words = "";
    // Of a run that is on its way the phase says more.
    if (this.stopping === stopping && (!reply.ok || !this.isRunning)) this.stopping = null;
    this.tell("state", this.state);
  }

  /** @param {Json} controls */
  async tellControls(controls) {
    const reply = await this.ask("set", { controls });
    for (const [name, value] of Object.entries(controls)) {
      if (this.local[name] === value) delete this.local[name];
    }
    if (!reply.ok) {
      this.state = { ...this.state, controls: { ...this.told, ...this.local } };
      this.complain(reply.error);
    }
    // An estimate that stays the same is true after all.
    this.later(() => {
      this.outdated = null;
      this.tell("state", this.state);
    }, 700);
    this.tell("state", this.state);
    return reply;
  }

  /** @param {Json} changes */
  setControls(changes) {
    if (!("record" in changes)) this.question = null; // it was asked about another run
    Object.assign(this.local, changes);
    if (!("record" in changes)) this.outdated = JSON.stringify(this.state.estimate);
    this.state = { ...this.state, controls: { ...this.state.controls, ...changes } };
    this.setting.push(changes);
    this.tell("state", this.state);
  }

  /** The estimate is of other controls than those that stand here. */
  get isEstimating() {
    return this.outdated !== null && this.outdated === JSON.stringify(this.state.estimate);
  }

  /**
   * @param {string} step
   * @param {number | null} row null: the last one that was run alone
   * @param {boolean} [quiet] keep what is shown until the new one comes
   */
  async openRecord(step, row, quiet = false) {
    const data = quiet ? (this.record?.data ?? null) : null;
    this.record = { step, row, data, error: "", version: this.version(step) };
    this.tell("record");
    const reply = await this.askNewest("record", { step, row });
    if (!reply || !this.record) return;
    this.record = { ...this.record, data: reply.ok ? reply : null, error: reply.ok ? "" : reply.error };
    this.tell("record");
  }

  /** The draft was edited, or is looked at (no edits). @param {Json} edits */
  editDraft(edits) {
    this.question = null;
    this.editing.push({ step: this.state.draft?.step, ...edits });
  }

  /** @param {Json} fields */
  async sendDraft(fields) {
    const reply = await this.askNewest("draft", fields);
    if (!reply) return null;
    if (Object.keys(fields).length > 1 && !this.lost) this.unread = reply.ok ? "" : reply.error; // it was an edit
    this.preview = { ...reply, step: fields.step, record: this.state.controls.record };
    this.tell("draft");
    return reply;
  }

  /** Bill, graph or errors, read again where the tables have changed. @param {string} op */
  side(op) {
    const { tables, phase, draft, session } = this.state;
    const live = this.isRunning ? Math.floor(Date.now() / 1_000) : 0; // then once a second
    const key = JSON.stringify([tables, phase, draft?.changed, session, live]);
    const held = this.sides.get(op) ?? { key: "", data: null, error: "", comes: false };
    if (held.key !== key && !this.lost && !held.comes) {
      held.key = key;
      held.comes = true; // one after another, however long it takes
      this.sides.set(op, held);
      void this.ask(op, {}).then((reply) => {
        held.comes = false;
        held.data = reply.ok ? reply : held.data;
        held.error = reply.ok ? "" : reply.error;
        this.tell("side");
      });
    }
    return held;
  }

  close() {
    for (const undo of this.undo.splice(0)) undo();
    for (const timer of this.timers) clearTimeout(timer);
    for (const control of [this.setting, this.selecting, this.editing]) control.drop();
    this.views.clear();
    this.open.clear();
  }
}
