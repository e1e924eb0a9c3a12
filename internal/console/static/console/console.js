// The console: puts its parts together.

import { Chats } from "./chats.js";
import { ConversationView, describe } from "./conversation.js";
import { Desk } from "./desk.js";
import { $, write } from "./dom.js";
import { showHealth, showRecovered } from "./health.js";
import { RawEvents } from "./rawevents.js";
import { named, signIn } from "./signin.js";

const readEvery = 1000; // ms: each CHAT_READ is stored

let ask; // shows the form again, with a reason

/** That one is signed in, and how: a link may be somebody else's. */
const signedIn = (who) => `Signed in as ${named(who)}${who.byLink ? ", by the link" : ""}`;

/** One admin's time in this window. */
class Visit {
	constructor(who) {
		this.who = who;
		this.selected = null;
		this.reading = new Set(); // keys of the chats for which CHAT_READ was sent just now
		this.desk = new Desk(who, (what, ...about) => this.hear(what, ...about));
		this.list = new Chats(who, {
			select: (dealerId, groupId) => this.select(dealerId, groupId),
			more: () => this.desk.listMore().catch((error) => this.hear("error", error)),
			unsent: (key) => this.desk.unsent(key).filter((reply) => reply.error).length,
			latest: (key) => this.desk.latest.get(key),
		});
		this.raw = new RawEvents();
		this.view = new ConversationView(this.desk, () => this.deselect());
		this.watch = () => this.read();
		document.addEventListener("visibilitychange", this.watch);
		write($("who"), signedIn(who));
		if (who.byLink) write($("announce"), signedIn(who));
		for (const id of ["who", "sign-out", "columns"]) $(id).hidden = false;
		showHealth({ state: "connecting" });
		this.chats();
		$("search").focus();
	}

	/** Leaves nothing of the visit on the page: the next one may be somebody else's, of another dealer. */
	end(why) {
		this.ended = true;
		document.removeEventListener("visibilitychange", this.watch);
		this.desk.close();
		this.view.end();
		this.list.end();
		this.raw.end();
		for (const id of ["who", "sign-out", "columns"]) $(id).hidden = true;
		for (const id of ["who", "recovered", "announce"]) write($(id), "");
		$("columns").classList.remove("in-chat");
		showHealth({ state: "Not signed in" });
		ask(why);
	}

	/** What the desk tells, until the visit has ended. */
	hear(what, ...about) {
		if (!this.ended) this[what]?.(...about);
	}

	select(dealerId, groupId) {
		this.selected = this.desk.open(dealerId, groupId);
		$("columns").classList.add("in-chat");
		this.view.select(this.selected);
		this.raw.select(this.selected);
		this.chats();
		$("draft").focus();
		this.read();
	}

	deselect() {
		this.selected = null;
		$("columns").classList.remove("in-chat");
		this.view.select(null);
		this.raw.select(null);
		this.list.selected = null;
		this.list.show();
		$("chats").querySelector("[tabindex='0']")?.focus();
	}

	/** Says that the selected chat was read, if somebody can see it. */
	async read() {
		const c = this.selected;
		const state = c && this.desk.stateOf(c);
		if (!state?.unread || document.hidden || this.desk.state !== "live" || this.reading.has(c.key)) return;
		this.reading.add(c.key);
		await this.desk.read(c).catch(() => {}); // next time, then
		setTimeout(() => {
			this.reading.delete(c.key);
			if (!this.ended) this.read();
		}, readEvery);
	}

	// What the desk tells.

	health(about) {
		if (about.state === "closed") return this.end(about.reason || "The connection was closed.");
		showHealth(about);
		if (about.state === "live") this.read();
	}

	ready({ session }) {
		write($("who"), `${signedIn(this.who)} · session ${session.slice(0, 8)} at ${location.host}`);
	}

	recovered(n) {
		showRecovered(n);
	}

	error(error) {
		this.view.problem(error.message);
	}

	chats() {
		this.list.update({ states: this.desk.chats(), selected: this.selected?.key, more: this.desk.hasMore, loading: this.desk.loading });
		this.view.soon();
		this.read();
	}

	event(e) {
		this.raw.add(e);
	}

	taken({ conversation, to, by, open }) {
		const chat = conversation === this.selected ? "the chat" : this.view.nameOf(conversation);
		if (to) this.view.problem(`${to} has taken ${chat} over from you`);
		else if (!by) this.view.problem(`You do not have ${chat} any more`); // nobody has said whose doing it is
		else this.view.problem(open ? `${by} has given ${chat} back to the bot` : `${by} has closed ${chat}`);
	}

	conversation(c, e) {
		if (c === undefined && this.selected) this.view.loadFirst();
		if (c === undefined || c === this.selected) this.view.soon();
		this.list.soon(); // it says what was not sent
		if (e) announce(e, c === this.selected ? "" : `in ${c.groupId}`, this.who.adminId);
	}
}

/** Has what was said read out to who cannot see it. */
function announce(e, where, me) {
	const what = describe(e, me);
	if (!what || what.kind === "me" || (where && what.kind !== "customer")) return;
	write($("announce"), [what.who, where, what.text].filter(Boolean).join(where ? " " : ": "));
}

async function authOf() {
	for (;;) {
		try {
			const answer = await fetch("/console.json");
			return (await answer.json()).auth;
		} catch {
			showHealth({ state: "offline" });
			await new Promise((resolve) => setTimeout(resolve, 2000));
		}
	}
}

// An address that is typed into a page that is there loads nothing by itself.
addEventListener("hashchange", () => /\b(token|dealer)=/.test(location.hash) && location.reload());

let visit;
$("sign-out").addEventListener("click", () => visit.end(""));
const auth = await authOf();
showHealth({ state: "Not signed in" });
ask = signIn(auth, (who) => { visit = new Visit(who); });
