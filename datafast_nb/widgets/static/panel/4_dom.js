// Elements. Texts are nodes of text, never markup.

/** @typedef {{[name: string]: any, onclick?: (e: any) => any, oninput?: (e: any) => any, onchange?: (e: any) => any, onkeydown?: (e: any) => any}} Props */
/** @typedef {Node | string | null | false | undefined} Kid */

/**
 * Replies are plain JSON; this gives their lists a type.
 * @template T
 * @param {any} list
 * @param {(item: any, k: number) => T} make
 * @returns {T[]}
 */
const each = (list, make) => Array.from(list ?? [], make);

/**
 * An element. Props that begin with "on" are listeners.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Props} [props]
 * @param {...Kid} kids
 * @returns {HTMLElementTagNameMap[K]}
 */
function h(tag, props = {}, ...kids) {
  const made = document.createElement(tag);
  if (tag === "button") made.setAttribute("type", "button");
  for (const [name, value] of Object.entries(props)) {
    if (value == null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "value") /** @type {any} */ (made).value = value;
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...solid(kids));
  return made;
}

/** @param {string} tag @param {Props} props @param {...Kid} kids */
function svg(tag, props, ...kids) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, String(value));
  }
  made.append(...solid(kids));
  return made;
}

/** @param {Kid[]} kids @returns {(Node | string)[]} */
const solid = (kids) => kids.filter((kid) => kid instanceof Node || (typeof kid === "string" && kid !== ""))
  .map((kid) => /** @type {Node | string} */ (kid));

/** @param {Element} at @param {string} text */
function say(at, text) {
  if (at.textContent !== text) at.textContent = text;
}

/** Set or take away an attribute. @param {Element} at @param {string} name @param {string | boolean | null} value */
function put(at, name, value) {
  if (value === false || value === null) at.removeAttribute(name);
  else if (at.getAttribute(name) !== String(value)) at.setAttribute(name, value === true ? "" : value);
}

/** A button that does nothing now. It keeps the focus, which a notebook would take for itself. @param {HTMLButtonElement} button @param {boolean} off */
const idle = (button, off) => put(button, "aria-disabled", off ? "true" : null);

/** A field keeps what is being typed into it. @param {HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement} field @param {string} value */
function fill(field, value) {
  const isOurs = field.tagName === "SELECT" || document.activeElement !== field;
  if (field.value !== value && isOurs) field.value = value;
}

/** @param {HTMLSelectElement} select @param {string[][]} options value, label */
function choices(select, options) {
  const key = JSON.stringify(options);
  if (select.dataset.of === key) return;
  const { value } = select;
  select.dataset.of = key;
  select.replaceChildren(...options.map(([v, label]) => h("option", { value: v }, visible(label))));
  select.value = options.some(([v]) => v === value) ? value : (options[0]?.[0] ?? "");
}

/** Sign and word of a status. @param {string} status @param {string} [words] */
function mark(status, words) {
  const [sign, word] = MARKS.get(status) ?? ["–", ""];
  const said = visible(words ?? word);
  return h("span", { class: `mark ${status}` }, h("i", { "aria-hidden": "true" }, sign), said && ` ${said}`);
}

/** @param {string} text */
const muted = (text) => h("span", { class: "mut" }, visible(text));

/** A text as it is, whole only on request where it is very long. @param {any} value */
function longText(value) {
  const text = String(value ?? "");
  const [shown, left] = clip(text);
  const made = h("pre", { dir: "auto" }, visible(shown));
  if (left) {
    made.append("\n", h("button", { class: "link", onclick: () => (made.textContent = visible(text)) },
      `… show ${count(left)} more characters`));
  }
  return made;
}

/** Names and values. @param {[string, Kid][]} list */
const pairs = (list) => h("dl", {}, ...list.flatMap(([name, value]) => [h("dt", {}, visible(name)), h("dd", {}, value)]));

/** @param {Json} values */
const valueList = (values) => pairs(Object.entries(values).map(([name, value]) => [name, longText(value)]));

/** @param {string} text */
const emptyPage = (text) => h("div", { class: "empty" }, visible(text));

/** @param {string} text */
async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h("textarea", { value: text, style: "position:fixed;opacity:0" });
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** Small bars above a column; words say the same. @param {Column} column */
function spark({ bars, words }) {
  return svg("svg", { class: "spark", width: bars.length * 4, height: 12, "aria-hidden": "true" },
    svg("title", {}, visible(words)), ...bars.map((bar, k) => {
      const height = Math.max(1, Math.round(Math.min(1, Math.max(0, bar)) * 12));
      return svg("rect", { x: k * 4, y: 12 - height, width: 3, height });
    }));
}
