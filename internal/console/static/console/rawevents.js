// On the right: the events as they came.

import { $, arrange, el, soon, write } from "./dom.js";
import { chatKey } from "/sdk/telle.js";

const most = 500;

export class RawEvents {
	constructor() {
		this.all = []; // latest first
		this.held = []; // came while paused
		this.paused = false;
		this.soon = soon(() => this.show());
		this.selected = null; // the conversation that is looked at
		this.life = new AbortController();
		const on = (id, event, handler) => $(id).addEventListener(event, handler, { signal: this.life.signal });
		on("pause", "click", () => this.pause(!this.paused));
		on("clear", "click", () => this.clear());
		on("only-this", "change", () => this.show());
		on("unfold", "click", () => this.unfold($("unfold").getAttribute("aria-expanded") !== "true"));
	}

	/** Leaves nothing of what came to whoever is next in this window. */
	end() {
		this.life.abort();
		this.soon.stop();
		$("only-this").checked = false;
		this.paused = false;
		this.selected = null;
		this.unfold(false);
		this.clear();
	}

	clear() {
		this.all = [];
		this.held = [];
		this.show();
	}

	/** In a narrow window the events are folded away until somebody wants to see them. */
	unfold(open) {
		$("right").classList.toggle("unfolded", open);
		$("unfold").setAttribute("aria-expanded", String(open));
		write($("unfold"), open ? "Hide" : "Show");
	}

	add(e) {
		const into = this.paused ? this.held : this.all;
		into.unshift(e);
		if (into.length > most) into.length = most;
		this.soon();
	}

	pause(paused) {
		this.paused = paused;
		if (!paused) {
			this.all = [...this.held, ...this.all].slice(0, most);
			this.held = [];
		}
		this.show();
	}

	select(conversation) {
		this.selected = conversation;
		this.show();
	}

	show() {
		const only = $("only-this").checked && this.selected;
		const shown = only ? this.all.filter((e) => concerns(e.data, only)) : this.all;
		arrange($("events"), shown, (e) => e.seq, line);
		write($("events-count"), String(shown.length));
		$("pause").setAttribute("aria-pressed", String(this.paused));
		write($("pause"), this.paused ? `Paused (${this.held.length})` : "Pause");
	}
}

function concerns(data, conversation) {
	if (data.groupId === undefined) return String(data.dealerId) === conversation.dealerId;
	return chatKey(data.dealerId, data.groupId) === conversation.key;
}

function line(e) {
	const of = e.data.groupId === undefined ? String(e.data.dealerId) : `${e.data.dealerId} / ${e.data.groupId}`;
	const at = new Date(e.at);
	return el("li", {}, el("details", {},
		el("summary", {},
			el("time", { datetime: at.toISOString() }, at.toTimeString().slice(0, 8)),
			el("span", { class: "seq" }, `#${e.seq}`), " ",
			el("span", { class: "channel" }, e.event), " ",
			el("span", { class: "of" }, of)),
		el("pre", {}, JSON.stringify(e.data, null, 2))));
}
