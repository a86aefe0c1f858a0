// The panel's module, its parts joined as Python joins them.
import { readdirSync, readFileSync } from "node:fs";

const folder = new URL("../../datafast_nb/widgets/static/panel/", import.meta.url);
export const parts = readdirSync(folder).filter((name) => name.endsWith(".js")).sort();
export const source = parts.map((name) => readFileSync(new URL(name, folder), "utf8")).join("");

/** @type {any} */
export const panel = await import(`data:text/javascript;base64,${Buffer.from(source).toString("base64")}`);
