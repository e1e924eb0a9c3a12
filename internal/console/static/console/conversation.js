// In the middle: one conversation, and what may be done to it.

import { $, arrange, el, soon, textOf, timeOf, write } from "./dom.js";
import { keepDraft, takeDraft } from "./unsent.js";

/** What an event is to who reads the conversation: {kind, who, text}; null: nothing. */
export function describe({ event, data }, me) {
	const admin = data.adminId === undefined || data.adminId === null ? "" : String(data.adminId);
	const who = admin === me ? "You" : admin;
	const have = admin === me ? "have" : "has";
	switch (event) {
	case "customer_message": return { kind: "customer", who: "Customer", text: textOf(data.message) };
	case "CHAT_MESSAGE":
		if (data.user === "admin") return { kind: admin === me ? "me" : "admin", who, text: textOf(data.message) };
		return { kind: "bot", who: "Bot", text: textOf(data.message) };
	case "MUTE_STATE":
		if (!data.muted) return { kind: "mark", text: `${who} ${have} unmuted the bot` };
		return { kind: "mark", text: `${who} ${have} ${data.ifOwner === undefined ? "muted the bot" : "taken the chat over"}` };
	case "CLOSE_CHAT": return { kind: "mark", text: `${who} ${have} closed the chat` };
	case "SYS_MESSAGE":
		return { kind: "system", who: `System message of ${admin}${data.groupId === undefined ? " to all chats" : ""}`, text: textOf(data.message) };
	case "client_join":
		return { kind: "mark", text: data.online === false ? "The customer has gone" : "The customer is here" };
	}
	return null;
}

export class ConversationView {
	constructor(desk, deselect) {
		this.desk = desk;
		this.me = desk.who.adminId;
		this.conversation = null;
		this.soon = soon(() => this.show());
		this.acting = new Set(); // the buttons whose work is under way, and on which chat
		this.atEnd = true; // so that the end shows in a window that becomes lower, too
		this.life = new AbortController();
		const on = (id, event, handler) => $(id).addEventListener(event, handler, { signal: this.life.signal });
		on("back", "click", deselect);
		on("older", "click", () => this.older());
		on("mute", "click", () => this.mute());
		on("take", "click", () => this.take());
		on("close", "click", () => this.press("close", (c) => this.desk.closeChat(c)));
		on("system", "click", () => this.openSystem());
		on("system-cancel", "click", () => $("system-dialog").close());
		on("system-form", "submit", () => this.sendSystem());
		on("draft", "keydown", (e) => this.key(e));
		on("draft", "input", () => this.grow());
		on("log", "scroll", () => { this.atEnd = this.endShows(); });
		this.height = new ResizeObserver(() => this.atEnd && this.toEnd());
		this.height.observe($("log"));
		on("reply", "submit", (e) => {
			e.preventDefault();
			this.reply();
		});
	}

	end() {
		this.life.abort();
		this.height.disconnect();
		this.soon.stop();
		this.select(null);
		$("system-dialog").close();
		$("system-form").reset();
		for (const id of ["system-chat", "system-dealer"]) write($(id), "");
	}

	select(conversation) {
		if (this.conversation) keepDraft(this.me, this.conversation.key, $("draft").value);
		this.conversation = conversation;
		this.problem("");
		$("lines").replaceChildren();
		$("draft").value = conversation ? takeDraft(this.me, conversation.key) : "";
		for (const id of ["mute", "take", "close", "system", "draft", "send"]) $(id).disabled = !conversation;
		write($("chat-title"), conversation ? this.nameOf(conversation) : "No chat selected");
		this.grow();
		this.show();
		this.toEnd();
		if (conversation) this.loadFirst();
	}

	nameOf({ dealerId, groupId }) {
		return this.desk.who.dealers.length > 1 ? `${dealerId} / ${groupId}` : groupId;
	}

	/** Reads the end of the conversation, unless that was done. */
	async loadFirst() {
		const c = this.conversation;
		if (c.loaded || c.loading) return;
		c.loading = true;
		try {
			await this.desk.load(c);
		} catch (error) {
			if (c === this.conversation) this.problem(`The conversation cannot be read back: ${error.message}`);
		} finally {
			c.loading = false;
		}
		if (c === this.conversation) this.toEnd();
	}

	async older() {
		const c = this.conversation;
		const fromEnd = $("log").scrollHeight - $("log").scrollTop;
		try {
			await this.desk.load(c);
		} catch (error) {
			if (c === this.conversation) this.problem(`The conversation cannot be read back: ${error.message}`);
		}
		if (c === this.conversation) $("log").scrollTop = $("log").scrollHeight - fromEnd;
		if (c === this.conversation && !c.more) $("log").focus(); // the button that had it is gone
	}

	endShows() {
		const log = $("log");
		return log.scrollHeight - log.scrollTop - log.clientHeight < 40;
	}

	toEnd() {
		$("log").scrollTop = $("log").scrollHeight;
	}

	show() {
		const c = this.conversation;
		const atEnd = this.endShows();
		arrange($("lines"), c ? this.lines() : [], (l) => l.key, (l) => this.make(l), (e, l) => this.fill(e, l));
		$("older").hidden = !c?.more;
		this.showState();
		if (atEnd) this.toEnd();
	}

	lines() {
		const lines = [];
		for (const e of this.conversation.sorted()) {
			const what = describe(e, this.me);
			if (what) lines.push({ key: e.seq, at: e.at, seq: e.seq, ...what });
		}
		for (const p of this.desk.unsent(this.conversation.key)) lines.push({ key: p.id, kind: "me", who: "You", text: p.text, pending: p });
		return lines;
	}

	make(line) {
		if (line.kind === "mark") return el("li", { class: "mark" }, el("span", {}, line.text), " ", timeOf(line.at));
		return el("li", { class: `line ${line.kind}`, "data-seq": line.seq },
			el("span", { class: "by" }, el("b", {}, line.who), " ", line.pending ? "" : timeOf(line.at)),
			el("span", { class: "text" }, line.text),
			line.pending ? el("span", { class: "fate" }) : "");
	}

	/** Says what has become of a reply that is on its way. */
	fill(e, { pending }) {
		if (!pending) return;
		const fate = e.querySelector(".fate");
		const now = pending.error || "waiting";
		if (fate.dataset.now === now) return;
		fate.dataset.now = now;
		e.classList.toggle("failed", Boolean(pending.error));
		if (!pending.error) return fate.replaceChildren("sending …");
		const c = this.conversation;
		fate.replaceChildren(`not sent: ${pending.error} `,
			el("button", { type: "button", onclick: () => this.desk.send(c, pending) }, "Send again"), " ",
			el("button", { type: "button", onclick: () => this.desk.discard(c, pending) }, "Discard"));
	}

	showState() {
		const c = this.conversation;
		const state = c && this.desk.stateOf(c);
		const mine = state?.muted && state.adminId === this.me;
		const words = [];
		if (c) words.push(state?.online ? "online" : "offline");
		if (state?.muted) words.push(mine ? "you have the chat" : `${state.adminId} has the chat`);
		else if (c) words.push("the bot speaks");
		if (state && !state.open) words.push("closed");
		write($("chat-state"), words.join(" · "));
		write($("mute"), state?.muted ? "Unmute bot" : "Mute bot");
		write($("take"), state?.muted && state.adminId && !mine ? `Take over from ${state.adminId}` : "Take over");
		// Not disabled: who has just pressed it with the keyboard would lose his place.
		$("take").setAttribute("aria-disabled", String(Boolean(mine)));
		$("close").setAttribute("aria-disabled", String(Boolean(state && !state.open)));
	}

	problem(text) {
		write($("notice"), text);
	}

	/** Does what a button says, once at a time, and tells why it was not done. */
	async press(id, what, explain) {
		const one = `${id} ${this.conversation.key}`;
		if (this.acting.has(one) || $(id).getAttribute("aria-disabled") === "true") return;
		this.acting.add(one);
		await this.act(what, explain);
		this.acting.delete(one);
	}

	async act(what, explain = (error) => error.message) {
		const c = this.conversation;
		const tell = (text) => c === this.conversation && this.problem(text);
		const meanwhile = this.desk.state === "live" ? "" : "That is done when the router is back.";
		tell(meanwhile);
		try {
			await what(c);
			if ($("notice").textContent === meanwhile) tell(""); // else something else has happened
		} catch (error) {
			tell(explain(error));
		}
	}

	mute() {
		const muted = Boolean(this.desk.stateOf(this.conversation)?.muted);
		this.press("mute", (c) => this.desk.mute(c, !muted));
	}

	take() {
		this.press("take", (c) => this.desk.takeOver(c), (error) => {
			if (error.code !== "conflict") return error.message;
			return error.owner ? `Not taken over: ${error.owner} has the chat` : "Not taken over: nobody has the chat any more";
		});
	}

	openSystem() {
		write($("system-chat"), this.nameOf(this.conversation));
		write($("system-dealer"), this.conversation.dealerId);
		$("system-form").reset();
		$("system-dialog").showModal();
		$("system-text").focus();
	}

	sendSystem() {
		const text = $("system-text").value.trim();
		const toAll = $("system-form").elements.to.value === "all";
		if (text) this.act((c) => this.desk.system(c, text, toAll));
	}

	key(e) {
		if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
		e.preventDefault();
		this.reply();
	}

	reply() {
		const text = $("draft").value.trim();
		if (!text || !this.conversation) return;
		$("draft").value = "";
		this.grow();
		this.desk.reply(this.conversation, text);
		this.show();
		this.toEnd();
	}

	/** The field is as high as its text, within bounds. */
	grow() {
		const lines = $("draft").value.split("\n").length;
		$("draft").rows = Math.min(Math.max(lines, 2), 8);
	}
}
