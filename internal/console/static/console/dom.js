// Small helpers for the page. No text becomes markup here: there is no way to say so.

/** The element of the page with that id. */
export const $ = (id) => document.getElementById(id);

/** Makes an element. Properties are attributes, handlers ("onclick") aside; children are nodes or texts. */
export function el(tag, properties = {}, ...children) {
	const e = document.createElement(tag);
	for (const [name, value] of Object.entries(properties)) {
		if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
		else if (value !== undefined && value !== false) e.setAttribute(name, value);
	}
	e.append(...children.filter((c) => c !== undefined && c !== ""));
	return e;
}

/** Writes a text, and nothing if it stands there already: what has not changed is not read out again. */
export function write(e, text) {
	if (e.textContent !== text) e.textContent = text;
}

/**
 * Makes the children of a list those of the items, in their order. What is there already stays, so that focus and
 * what is open stay, too. make(item) returns the element of an item, update(element, item) brings it up to date.
 */
export function arrange(list, items, keyOf, make, update = () => {}) {
	const focused = list.contains(document.activeElement) ? document.activeElement : null;
	const old = new Map(Array.from(list.children, (e) => [e.key, e]));
	let next = list.firstElementChild;
	for (const item of items) {
		const key = keyOf(item);
		let e = old.get(key);
		if (e) old.delete(key);
		else (e = make(item)).key = key;
		update(e, item);
		if (e === next) next = next.nextElementSibling;
		else list.insertBefore(e, next);
	}
	for (const e of old.values()) e.remove();
	if (focused && focused !== document.activeElement && list.contains(focused)) focused.focus({ preventScroll: true });
}

/**
 * Returns what draws a little later, once for all who ask until then; also in a window that nobody sees, whose title counts.
 * After its stop() nothing is drawn any more.
 */
export function soon(draw) {
	let timer;
	const later = () => {
		timer ??= setTimeout(() => {
			timer = undefined;
			draw();
		}, 16);
	};
	later.stop = () => {
		clearTimeout(timer);
		timer = 0; // so that nobody starts another one
	};
	return later;
}

/** What a message says: any JSON may be in it. */
export const textOf = (message) => (typeof message === "string" ? message : JSON.stringify(message) ?? "");

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** A time as people read it: of today without the day. */
export function timeOf(at) {
	const t = new Date(at);
	if (Number.isNaN(t.getTime())) return el("time");
	const today = t.toDateString() === new Date().toDateString();
	return el("time", { datetime: t.toISOString(), title: day.format(t) }, (today ? clock : day).format(t));
}

/** "1 event", "2 events". */
export const count = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;

/** An id that nobody else makes. (crypto.randomUUID is there on https and localhost only.) */
export const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");
