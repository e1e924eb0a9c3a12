// On the left: the dealer's chats, latest activity first.

import { $, arrange, el, soon, timeOf, write } from "./dom.js";
import { chatKey } from "/sdk/telle.js";

const keyOf = (state) => chatKey(state.dealerId, state.groupId);

/** When the stream had the last activity of a chat of which nothing was heard here. */
const at = (state) => Date.parse(state.lastActivity) || 0;

const filters = {
	open: (state) => state.open,
	unread: (state) => state.unread > 0,
	mine: (state, me) => state.adminId === me,
	all: () => true,
};

export class Chats {
	constructor({ adminId, dealers }, { select, more, unsent, latest }) {
		this.me = adminId;
		this.several = dealers.length > 1;
		this.unsent = unsent; // of a key: how many replies were not sent
		this.latest = latest; // of a key: the sequence of its last activity that was heard here; undefined: none was
		this.loading = true;
		this.select = select;
		this.more = more;
		this.soon = soon(() => this.show());
		this.states = [];
		this.selected = null; // key
		this.current = null; // key of the one that Tab reaches
		this.life = new AbortController();
		const on = (id, event, handler) => $(id).addEventListener(event, handler, { signal: this.life.signal });
		on("search", "input", () => this.show());
		on("which", "change", () => this.show());
		on("more-chats", "click", () => this.more());
		on("chats", "keydown", (e) => this.key(e));
		on("chats", "click", (e) => this.choose(e.target.closest("[role=option]")));
		$("widget-link").href = `/widget?dealer=${encodeURIComponent(dealers[0])}`;
	}

	end() {
		this.life.abort();
		this.soon.stop();
		this.states = [];
		$("more-chats").hidden = true;
		$("search").value = "";
		$("which").value = "open";
		$("widget-link").href = "/widget";
		this.show();
	}

	update({ states, selected, more, loading }) {
		this.states = states;
		this.loading = loading;
		$("more-chats").hidden = !more;
		this.selected = selected;
		this.soon();
	}

	shown() {
		const filter = filters[$("which").value];
		const words = $("search").value.trim().toLowerCase();
		return this.states
			.filter((s) => filter(s, this.me) || keyOf(s) === this.selected || this.unsent(keyOf(s)) > 0)
			.filter((s) => `${s.groupId} ${s.adminId ?? ""} ${this.several ? s.dealerId : ""}`.toLowerCase().includes(words))
			.sort((a, b) => (this.latest(keyOf(b)) ?? 0) - (this.latest(keyOf(a)) ?? 0) || at(b) - at(a) || b.seq - a.seq);
	}

	show() {
		const shown = this.shown();
		if (!shown.some((s) => keyOf(s) === this.current)) this.current = shown.length ? keyOf(shown[0]) : null;
		arrange($("chats"), shown, keyOf, () => this.make(), (e, s) => this.fill(e, s, keyOf(s)));
		$("no-chats").hidden = this.loading || this.states.length > 0;
		write($("list-note"), this.noteOn(shown));
		const unread = this.states.filter((s) => s.unread > 0).length;
		write($("chats-count"), unread ? `${unread} unread` : "");
		document.title = unread ? `(${unread}) Telle console` : "Telle console";
	}

	/** Why the list is empty, if it is for another reason than that there are no chats. */
	noteOn(shown) {
		if (shown.length > 0) return "";
		if (this.states.length > 0) return "No chat matches.";
		return this.loading ? "Loading …" : "";
	}

	/** What a chat is called is what stands there, so that it can be read out and be spoken to. */
	make() {
		return el("div", { role: "option", class: "chat" },
			el("span", { class: "dot", "aria-hidden": "true" }),
			el("span", { class: "name" }), el("span", { class: "when" }),
			el("span", { class: "marks" }), el("span", { class: "unread" }));
	}

	fill(e, state, key) {
		const [, name, when, marks, unread] = e.children;
		e.of = state;
		e.tabIndex = key === this.current ? 0 : -1;
		e.setAttribute("aria-selected", String(key === this.selected));
		e.classList.toggle("online", state.online);
		e.classList.toggle("closed", !state.open);
		write(name, this.several ? `${state.dealerId} / ${state.groupId}` : state.groupId);
		if (e.at !== state.lastActivity) when.replaceChildren(timeOf(e.at = state.lastActivity));
		write(marks, this.marksOf(state, this.unsent(key)).join(" · "));
		if (e.unread !== state.unread) {
			const words = el("span", { class: "hidden" }, ` unread message${state.unread === 1 ? "" : "s"}`);
			unread.replaceChildren(...((e.unread = state.unread) ? [String(state.unread), words] : []));
		}
	}

	marksOf(state, unsent) {
		const marks = [state.online ? "online" : "offline"];
		if (unsent) marks.unshift(unsent === 1 ? "a reply was not sent" : `${unsent} replies were not sent`);
		if (state.muted) marks.push(state.adminId === this.me ? "muted by you" : `muted by ${state.adminId}`);
		if (!state.open) marks.push("closed");
		return marks;
	}

	key(e) {
		const options = [...$("chats").children];
		const at = options.findIndex((o) => o.key === this.current);
		const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: options.length - 1 }[e.key];
		if (to !== undefined) this.moveTo(options[Math.min(Math.max(to, 0), options.length - 1)]);
		else if (e.key === "Enter" || e.key === " ") this.choose(options[at]);
		else return;
		e.preventDefault();
	}

	moveTo(option) {
		if (!option) return;
		for (const o of $("chats").children) o.tabIndex = o === option ? 0 : -1;
		this.current = option.key;
		option.focus();
	}

	choose(option) {
		if (!option) return;
		this.current = option.key;
		this.select(option.of.dealerId, option.of.groupId);
	}
}
