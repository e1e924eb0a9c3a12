// What an admin has before him, apart from how it looks: the connection, the chats and their states, the conversations
// that were opened, and what may be done to them.

import { chatKey, connect } from "/sdk/telle.js";
import { newId } from "./dom.js";
import { replies } from "./unsent.js";

const pageSize = 50;
const mostSeen = 2000; // events of a conversation: past it,
const mostKept = 200; // so many are kept
const mostOpened = 50; // conversations whose events are kept
const eventIn = 5000; // ms after its answer, in which the event of a reply comes

/** What moves a chat up: not that it was read, nor that its customer has gone. */
const isActivity = ({ event, data }) => event !== "CHAT_READ" && !(event === "client_join" && data.online === false);

/** One chat: its events by sequence, from when it was opened. Those of before are read back then. */
class Conversation {
	constructor(dealerId, groupId) {
		this.key = chatKey(dealerId, groupId);
		this.dealerId = dealerId;
		this.groupId = groupId;
		this.events = new Map(); // sequence -> {event, data, seq, at}
		this.forget();
	}

	/** What was read is not counted on any more. */
	forget() {
		this.events.clear();
		this.loaded = false;
		this.more = false;
		this.before = undefined;
	}

	take(e) {
		if (!this.events.has(e.seq)) this.events.set(e.seq, e);
		replies.delete(e.data.messageId);
	}

	/** Lets old events go, so that a page that is open for days does not grow. They can be loaded again. */
	trim() {
		if (this.events.size <= mostSeen) return;
		const seqs = [...this.events.keys()].sort((a, b) => a - b);
		for (const seq of seqs.slice(0, -mostKept)) this.events.delete(seq);
		this.before = seqs.at(-mostKept);
		this.more = true;
	}

	sorted() {
		return [...this.events.values()].sort((a, b) => a.seq - b.seq);
	}
}

/**
 * Tells "health", "ready", "recovered", "error", "chats", "conversation" (a Conversation or, of all, undefined), "event" and
 * "taken" (from this admin: the Conversation, who has it now, by whom it was done, and whether it is open) to whom it was given.
 */
export class Desk {
	constructor(who, tell) {
		this.who = who; // {dealers, adminId, token}
		this.tell = tell;
		this.opened = new Map(); // key -> Conversation, latest opened last
		this.more = new Map(); // dealer -> whether it has chats that were not listed
		this.latest = new Map(); // key -> sequence of the last activity that was heard here: the clock here has no say in it
		this.mine = new Set(); // keys of the chats that this admin has
		this.loss = null; // of one of them, while nobody has said who has done it
		this.recalled = new Set(); // keys of those that were not listed, and are followed all the same
		this.state = "connecting";
		this.begun = false; // whether the router has said what there is
		this.chat = connect({
			url: location.origin,
			role: "admin",
			backoff: { most: 15_000 }, // somebody waits
			...(who.token ? { token: who.token } : { dealerId: who.dealers[0], adminId: who.adminId }),
		});
		this.listen();
	}

	listen() {
		const on = (event, handler) => this.chat.on(event, handler);
		on("state", (state, about) => {
			this.state = state;
			this.tell("health", { state, ...about });
		});
		on("ready", (ready) => {
			this.begun = true;
			this.tell("ready", ready);
			this.listed();
		});
		on("chats", ({ dealerId, more }) => {
			this.more.set(dealerId, more);
			this.listed();
		});
		on("recovered", (n) => this.tell("recovered", n));
		on("lost", () => this.reload());
		on("expiring", ({ seconds }) => this.tell("error", new Error(`The token ends in ${seconds} s: then sign in with a new one.`)));
		on("error", (error) => {
			this.tell("error", error);
			this.listed(); // it may be that a list will not come
		});
		on("states", (key, state) => {
			this.watch(key, state);
			this.tell("chats");
		});
		on("event", (e) => this.take(e));
	}

	close() {
		this.chat.close();
	}

	/** Whether there may be chats of which nobody has told yet. */
	get loading() {
		return !this.begun || this.chat.listing.size > 0;
	}

	listed() {
		this.tell("chats");
		if (!this.loading) this.recall();
	}

	/** Follows the chats to which a reply was not sent and that are not listed, as they have closed: then their states are told. */
	recall() {
		for (const { key, groupId, dealerId } of this.ownReplies()) {
			if (this.chat.chats.has(key) || this.recalled.has(key)) continue;
			this.recalled.add(key);
			this.chat.follow(groupId, dealerId).catch((error) => {
				this.recalled.delete(key);
				this.tell("error", error);
			});
		}
	}

	/** Tells when this admin has a chat no more, unless he has done that himself: the event says so, which is told right after the state. */
	watch(key, { dealerId, groupId, adminId, open }) {
		if (adminId === this.who.adminId) return this.mine.add(key);
		if (!this.mine.delete(key)) return;
		const loss = this.loss = { conversation: this.conversation(dealerId, groupId), to: adminId, by: adminId, open };
		queueMicrotask(() => {
			this.loss = null;
			if (loss.by !== this.who.adminId) this.tell("taken", loss);
		});
	}

	get hasMore() {
		return [...this.more.values()].includes(true);
	}

	/** Lists more chats of each dealer that has them. */
	async listMore() {
		for (const [dealerId, more] of this.more) {
			if (more) await this.chat.more({ dealerId });
		}
	}

	/** The states of all chats that are known. */
	chats() {
		return [...this.chat.chats.values()];
	}

	/** The replies of this admin that are not in the stream yet, also those of a session before. */
	ownReplies() {
		const { adminId, dealers } = this.who;
		return [...replies.values()].filter((reply) => reply.adminId === adminId && dealers.includes(reply.dealerId));
	}

	/** Those to one chat. */
	unsent(key) {
		return this.ownReplies().filter((reply) => reply.key === key);
	}

	stateOf(conversation) {
		return this.chat.chats.get(conversation.key);
	}

	/** The conversation, if it is open; else one that nobody keeps. */
	conversation(dealerId, groupId) {
		return this.opened.get(chatKey(dealerId, groupId)) ?? new Conversation(dealerId, groupId);
	}

	/** Opens a conversation, and lets go of the one that was not opened for the longest time: it would be read back. */
	open(dealerId, groupId) {
		const c = this.conversation(dealerId, groupId);
		this.opened.delete(c.key);
		this.opened.set(c.key, c);
		if (this.opened.size > mostOpened) this.opened.delete(this.opened.keys().next().value);
		return c;
	}

	take({ event, data, seq }) {
		const e = { event, data, seq, at: Date.now() };
		this.tell("event", e);
		if (this.loss && data.adminId != null) this.loss.by = String(data.adminId);
		const dealerId = String(data.dealerId);
		if (data.groupId === undefined) { // for all chats of the dealer
			for (const c of this.opened.values()) if (c.dealerId === dealerId) this.add(c, e);
			return;
		}
		if (isActivity(e)) this.latest.set(chatKey(dealerId, data.groupId), seq);
		this.add(this.conversation(dealerId, String(data.groupId)), e);
	}

	add(conversation, e) {
		conversation.take(e);
		conversation.trim();
		this.tell("conversation", conversation, e);
	}

	/** What was missed cannot be told event by event: read again what is open. */
	reload() {
		for (const c of this.opened.values()) c.forget();
		this.latest.clear();
		for (const key of this.mine) if (!this.chat.chats.has(key)) this.mine.delete(key); // whoever has it now has not taken it from here
		this.tell("conversation");
	}

	/** Reads a conversation back: its end, or what comes before what is there. */
	async load(conversation) {
		const { dealerId, groupId, before, loaded } = conversation;
		const page = await this.chat.history({ dealerId, groupId, limit: pageSize, ...(loaded && before ? { before } : {}) });
		for (const e of page.events) conversation.take(e);
		conversation.loaded = true;
		conversation.more = page.more;
		conversation.before = page.before;
		this.tell("conversation", conversation);
	}

	about(conversation, more = {}) {
		return { dealerId: conversation.dealerId, groupId: conversation.groupId, adminId: this.who.adminId, ...more };
	}

	mute(conversation, muted) {
		return this.chat.send("MUTE_STATE", this.about(conversation, { type: "MUTE_STATUS", muted }));
	}

	/** Mutes the bot if nobody else has done so since its state was shown: of two who click at once, one has the chat. */
	takeOver(conversation) {
		const owner = this.stateOf(conversation)?.adminId || null;
		return this.chat.send("MUTE_STATE", this.about(conversation, { type: "MUTE_STATUS", muted: true, ifOwner: owner }));
	}

	closeChat(conversation) {
		return this.chat.send("CLOSE_CHAT", this.about(conversation, { type: "CLOSE_CHAT" }));
	}

	read(conversation) {
		return this.chat.send("CHAT_READ", this.about(conversation, { type: "CHAT_READ" }));
	}

	system(conversation, message, toAll) {
		const data = this.about(conversation, { type: "SYS_MSG", user: "admin", message });
		if (toAll) delete data.groupId;
		return this.chat.send("SYS_MESSAGE", data);
	}

	reply(conversation, text) {
		const { key, dealerId, groupId } = conversation;
		const reply = { id: newId(), adminId: this.who.adminId, dealerId, groupId, key, text, error: "" };
		replies.set(reply.id, reply);
		return this.send(conversation, reply);
	}

	/** Sends a reply, for the first time or again: the same id is stored once. */
	async send(conversation, reply) {
		reply.error = "";
		this.tell("conversation", conversation);
		try {
			await this.chat.send("CHAT_MESSAGE",
				this.about(conversation, { type: "CHAT_MSG", user: "admin", message: reply.text, messageId: reply.id }));
			setTimeout(() => this.discard(conversation, reply), eventIn); // its event may have come before all was read anew
		} catch (error) {
			reply.error = error.code === "closed" ? "the session has ended" : error.message;
		}
		this.tell("conversation", conversation);
	}

	discard(conversation, reply) {
		replies.delete(reply.id);
		this.tell("conversation", conversation);
	}
}
