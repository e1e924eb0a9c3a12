// A client of the Telle event router over plain WebSocket, for browsers and for Node.js. It comes back by itself, gets
// what it has missed, and keeps what is sent meanwhile. README.md shows how; docs/protocol.md of the router has what travels.

/** What a send or a request is refused with: a code of docs/protocol.md, or one of ours: "closed", "queue_full", "timeout". */
export class TelleError extends Error {
	constructor({code, message, owner}, data) {
		super(message);
		this.name = "TelleError";
		this.code = code;
		if (owner !== undefined) this.owner = owner; // of "conflict": who has the chat; null: nobody
		if (data !== undefined) this.data = data; // what was sent: with its messageId, it can be sent again
	}
}

/** Connects. It returns at once: the connection is there at the event "ready", and what is sent before waits for it. */
export function connect(options) {
	return new Telle(options);
}

/** The key of a chat in `chats`. 12 and "12" are the same id. */
export function chatKey(dealerId, groupId) {
	return `${dealerId}\u0000${groupId}`;
}

/**
 * Returns the state of a conversation after one more of its events: `{data, seq, at}`. It mirrors State.Fold of the
 * router's pkg/events, where the table stands; testdata/fold.json holds both to it.
 */
export function fold(state, {data, seq, at = new Date().toISOString()}) {
	const apply = folds[data.type];
	if (!apply || seq <= (state?.seq ?? 0)) {
		return state;
	}
	const next = {...(state ?? none(data)), seq};
	if (apply(next, data, seq) !== false) {
		next.lastActivity = at;
	}
	return next;
}

const none = ({dealerId, groupId}) => ({
	dealerId: String(dealerId), groupId: String(groupId), seq: 0, muted: false, open: false, online: false, unread: 0,
});

const isTrue = (value) => value === undefined || value === true;

function mute(state, muted, adminId) {
	state.muted = muted;
	delete state.adminId;
	if (muted) {
		state.open = true;
		if (adminId != null) state.adminId = String(adminId);
	}
}

function said(state, {user}) {
	if (user === "customer") {
		state.open = true;
		state.unread++;
	} else if (user === "admin") {
		state.open = true;
		state.unread = 0;
	}
}

// By type. One that returns false is no activity.
const folds = {
	__proto__: null,
	UPDATE_MSG: said,
	CHAT_MSG: said,
	SYS_MSG() {},
	MUTE_BOT: (state, {adminId}) => mute(state, true, adminId),
	UNMUTE_BOT: (state) => mute(state, false),
	MUTE_STATUS: (state, {muted, adminId}) => mute(state, isTrue(muted), adminId),
	CLOSE_CHAT(state) {
		mute(state, false);
		state.open = false;
		state.unread = 0;
	},
	CLIENT_JOIN(state, {online}, seq) {
		state.online = isTrue(online);
		state.open ||= state.online && state.joined === undefined;
		state.joined = seq;
		return state.online;
	},
	CHAT_READ(state) {
		state.unread = 0;
		return false;
	},
};

// What ends it for good: to come back would end the same way. 4401 does not where a new token can be had.
const BAD_FRAME = 4400, UNAUTHORIZED = 4401, FORBIDDEN = 4403;
const DRAIN = 1012, LIMIT = 4429;

const HANDSHAKE = 15_000; // ms until "ready"
const SILENCE = 30_000; // ms in which the router has said nothing: it is asked whether it is there
const SPREAD = 5_000; // ms that some ask sooner, or all would in the moment after a word to all
const PROOF = 10_000; // ms that the answer to that may take
const STEADY = 5_000; // ms: a connection that lasts for less does not count as mended
const REMEMBERED = 100_000; // ms: the stream knows a double for 2 minutes
const LONGEST_HINT = 60_000; // ms
const INQUIRY = 2_000; // ms between two questions about chats that were in no list: each counts as ten frames
const NAMED = 200; // chats in one of them
const GROUPS = 100; // chats that a handshake may name
const KNOWN = 10_000; // chats that are remembered, those with the latest events; twice as many before the others are forgotten
const OWN = 500; // messages of ours that are known when they come back

// These ask, and are no events: nothing of them is stored, and a field of another name is refused.
const REQUESTS = new Set(["follow", "unfollow", "history", "chats", "ping"]);

// What is refused for one of these may be granted later.
const PASSING = new Set(["unavailable", "rate_limited", "timeout", "queue_full"]);

class Telle {
	/** "connecting", "live", "degraded", "offline" (waits to come back) or "closed" (for good) */
	state = "connecting";
	/** The state of each chat that is followed, by chatKey. */
	chats = new Map();
	/** The dealers whose list of chats was late, to an admin who follows all: it is asked for. */
	listing = new Set();

	#options;
	#url;
	#handlers = new Map(); // by event: a Set
	#socket = null;
	#token; // that the connection was made with
	#attempts = 0; // that have failed, in a row
	#wake = null; // timer of the next attempt
	#told = false; // by the router, how long to wait
	#patience = null; // timer of the handshake
	#renewal = null; // timer of the next token
	#watching = null; // timer of the next look whether the router is there
	#silence = SILENCE - Math.random() * SPREAD;
	#readyAt = 0;
	#heardAt = 0;
	#beginning = false; // what "ready" brings about is under way: nothing else is sent yet

	#since; // the greatest sequence had
	#last = new Map(); // the same for each conversation: one may get an event late, when others are further
	#missed; // events that have come since the return; undefined: all is there

	#calls = new Map(); // what is not answered, by id, in the order in which it was sent
	#ids = 0;
	#own = new Set(); // messageIds of ours, the latest
	#named = new Set(); // the chats that the handshake has named
	#follows = new Map(); // what is followed by follow(): data by key
	#joins = new Map(); // by client_join
	#before = new Map(); // by dealer: where the next page of chats begins
	#all = new Set(); // the dealers all of whose chats an admin follows
	#unknown = new Map(); // by key: {dealerId, groupId, events, asked} of chats that were in no list
	#inquiry = null; // timer of the next question about them
	#inquiredAt = 0;
	#relist = null; // timer of the next attempt to get lists
	#refusals = 0; // of lists, in a row

	constructor(options) {
		this.#options = {queue: 100, timeout: 15_000, ...options, backoff: {first: 500, most: 30_000, ...options.backoff}};
		this.#options.WebSocket ??= globalThis.WebSocket;
		if (!this.#options.WebSocket) {
			throw new TypeError("there is no WebSocket here: give one as the option WebSocket");
		}
		this.#url = address(options.url);
		for (const groupId of [options.groupId ?? []].flat()) {
			this.#follows.set(chatKey("", groupId), {groupId});
		}
		for (const [target, event] of awakenings()) target.addEventListener?.(event, this.#awake);
		queueMicrotask(() => this.#open()); // when the page has said what it wants to hear
	}

	on(event, handler) {
		if (!this.#handlers.has(event)) this.#handlers.set(event, new Set());
		this.#handlers.get(event).add(handler);
		return this;
	}

	off(event, handler) {
		this.#handlers.get(event)?.delete(handler);
		return this;
	}

	/**
	 * Sends an event, or keeps it until the connection is back; resolves to the router's answer, `{seq}`: it is stored.
	 * `timeout` counts from when it goes over the wire.
	 *
	 * Each event gets a messageId, if it has none: what was not answered when the connection broke is sent again, and the
	 * stream keeps one of both.
	 */
	send(event, data, {timeout} = {}) {
		return this.#send(event, data, {timeout});
	}

	#send(event, data, {timeout = this.#options.timeout, again = false}) {
		if (!REQUESTS.has(event) && isObject(data) && data.messageId === undefined && data.id === undefined) {
			data = {...data, messageId: uuid()};
		}
		return new Promise((resolve, reject) => {
			if (this.state === "closed") {
				throw new TelleError({code: "closed", message: "the client is closed"}, data);
			}
			const fault = faultOf(event, data);
			if (fault) {
				throw new TelleError({code: "invalid_event", message: fault}, data);
			}
			if (!again && this.state !== "live" && this.#waiting() >= this.#options.queue) {
				throw new TelleError({code: "queue_full", message: "too much waits for the connection"}, data);
			}
			const id = ++this.#ids;
			const call = {id, event, data, timeout, text: JSON.stringify({event, id, data}), resolve, reject, again, sent: 0, flying: false};
			this.#calls.set(id, call);
			if (again) this.#transmit(call);
			else this.#flush(); // behind what waits
		});
	}

	/** A page of a conversation as it was, ascending; give its `before` to get the one before it. */
	async history({timeout, ...page} = {}) {
		return (await this.send("history", page, {timeout})).data;
	}

	/** The next page of a dealer's open chats, for an admin who follows all: they go into `chats`, too. */
	async more({dealerId, limit} = {}) {
		const before = this.#before.get(dealerId === undefined ? this.#before.keys().next().value : String(dealerId));
		return (await this.send("chats", {dealerId, before, limit})).data;
	}

	/** Follows a chat or, without groupId, all chats of the dealer; again whenever the connection comes back. */
	async follow(groupId, dealerId) {
		const data = {dealerId, groupId};
		const answer = await this.send("follow", data);
		this.#follows.set(chatKey(dealerId ?? "", groupId ?? ""), data);
		return answer;
	}

	async unfollow(groupId, dealerId) {
		const answer = await this.send("unfollow", {dealerId, groupId});
		const same = (a, b) => a === undefined || b === undefined || String(a) === String(b);
		for (const map of [this.#follows, this.#joins]) {
			for (const [key, of] of map) if (String(of.groupId) === String(groupId) && same(of.dealerId, dealerId)) map.delete(key);
		}
		return answer;
	}

	/** Ends it. What is not answered is rejected. */
	close() {
		this.#end({code: 1000, reason: ""});
	}

	// The connection.

	async #open() {
		if (this.state === "closed") {
			return;
		}
		clearTimeout(this.#wake);
		this.#wake = null;
		this.#to("connecting");
		try {
			const token = await this.#ask();
			if (this.state === "connecting") this.#dial(token);
		} catch (err) {
			this.#emit("error", err);
			this.#retry({code: UNAUTHORIZED, reason: err.message});
		}
	}

	async #ask() {
		const {token} = this.#options;
		let late;
		try {
			return typeof token === "function" ? await Promise.race([token(), new Promise((_, reject) => {
				late = setTimeout(() => reject(new Error("no token came in time")), HANDSHAKE);
			})]) : token;
		} catch (cause) {
			throw Object.assign(new TelleError({code: "unauthorized", message: "there is no token to be had"}), {cause});
		} finally {
			clearTimeout(late);
		}
	}

	#dial(token) {
		this.#token = token;
		const socket = this.#socket = new this.#options.WebSocket(this.#address(token));
		this.#patience = setTimeout(() => this.#drop("no answer"), HANDSHAKE);
		socket.onmessage = ({data}) => this.#take(data);
		socket.onclose = ({code, reason}) => this.#lost({code, reason});
		socket.onerror = () => {}; // the close tells; without a handler, some throw
	}

	#address(token) {
		const url = new URL(this.#url);
		const {role, dealerId, adminId} = this.#options;
		for (const [name, value] of Object.entries({token, role, dealerId, adminId, since: this.#since})) {
			for (const v of [value ?? []].flat()) url.searchParams.append(name, v);
		}
		this.#named = new Set(this.#names() ? this.#groups() : []);
		for (const groupId of this.#named) url.searchParams.append("groupId", groupId);
		return url.href;
	}

	/**
	 * Whether the handshake names the chats, so that they are resumed. An admin who has named none follows all, and must
	 * not be narrowed; nor can a service of several dealers.
	 */
	#names() {
		const {groupId, role, dealerId} = this.#options;
		return groupId !== undefined || role === "service" && dealerId !== undefined && !Array.isArray(dealerId) ||
			this.#role() === "customer" && this.#joins.size > 0;
	}

	#role() {
		return this.#options.role ?? claimsOf(this.#token)?.role;
	}

	/** The chats that the handshake names: of an admin who has left them all, those that he had, so that he is not shown all. */
	#groups() {
		const kept = this.#kept();
		return kept.size > 0 ? [...kept].slice(0, GROUPS) : [this.#options.groupId ?? []].flat().map(String);
	}

	/** The single chats that hold for the connections to come. */
	#kept() {
		const all = [...this.#follows.values(), ...this.#joins.values()].map(({groupId}) => groupId);
		return new Set(all.filter((groupId) => groupId !== undefined).map(String));
	}

	/** Lets go of a connection that may be dead: a close handshake would wait for it. */
	#drop(reason) {
		this.#forget();
		this.#lost({code: 1006, reason});
	}

	#forget() {
		clearTimeout(this.#patience);
		clearTimeout(this.#renewal);
		clearTimeout(this.#watching);
		clearTimeout(this.#relist);
		clearTimeout(this.#inquiry);
		this.#inquiry = this.#relist = null;
		const socket = this.#socket;
		this.#socket = null;
		if (socket) {
			socket.onmessage = socket.onclose = null;
			socket.close();
		}
	}

	#lost(why) {
		this.#forget();
		for (const call of this.#calls.values()) this.#ground(call);
		const renewable = why.code === UNAUTHORIZED && typeof this.#options.token === "function";
		if ([BAD_FRAME, UNAUTHORIZED, FORBIDDEN].includes(why.code) && !renewable) {
			this.#emit("error", new TelleError({code: why.code === BAD_FRAME ? "invalid_event" : why.code === FORBIDDEN ? "forbidden" : "unauthorized",
				message: why.reason || "the router has ended the session"}));
			return this.#end(why);
		}
		this.#retry(why);
	}

	#retry(why) {
		if (this.state === "closed") {
			return;
		}
		if (this.#readyAt && Date.now() - this.#readyAt >= STEADY) this.#attempts = 0;
		this.#readyAt = 0;
		const retryIn = pause(why, this.#attempts++, this.#options.backoff);
		this.#told = why.code === DRAIN || why.code === LIMIT;
		this.#wake = setTimeout(() => this.#open(), retryIn);
		this.#to("offline", {...why, retryIn});
	}

	/**
	 * There is a network again, or somebody looks at the page again: is the connection still there? Or why wait for a
	 * backoff that was for another reason?
	 */
	#awake = ({type}) => {
		if (type === "visibilitychange" && globalThis.document.hidden) {
			return;
		}
		if (!this.#wake) {
			this.#probe();
		} else if (!this.#told) {
			clearTimeout(this.#wake);
			this.#wake = setTimeout(() => this.#open(), Math.random() * this.#options.backoff.first);
		}
	};

	/** Looks now and then whether the router has said something: that a connection is dead, nobody tells for minutes. */
	#watch() {
		const silent = performance.now() - this.#heardAt; // no clock that is set
		if (silent >= this.#silence) this.#probe();
		this.#watching = setTimeout(() => this.#watch(), silent < this.#silence ? this.#silence - silent : this.#silence);
	}

	/** Asks the router whether it is there. If it does not answer, the connection is given up. */
	#probe() {
		const connected = this.state === "live" || this.state === "degraded";
		if (connected && !Array.from(this.#calls.values()).some(({flying}) => flying)) { // else that will tell
			this.#send("ping", {}, {again: true, timeout: PROOF}).catch(() => {}); // a refusal is an answer
		}
	}

	#end(why) {
		if (this.state === "closed") {
			return;
		}
		this.#forget();
		clearTimeout(this.#wake);
		for (const [target, event] of awakenings()) target.removeEventListener?.(event, this.#awake);
		this.#to("closed", why);
		for (const call of this.#calls.values()) {
			this.#settleCall(call, () => call.reject(new TelleError({code: "closed", message: "the client is closed"}, call.data)));
		}
	}

	#to(state, why) {
		if (this.state !== state) {
			this.state = state;
			this.#emit("state", state, why);
		}
	}

	#emit(event, ...args) {
		for (const handler of [...this.#handlers.get(event) ?? []]) {
			try {
				handler(...args);
			} catch (err) {
				setTimeout(() => { throw err; }); // the page's fault, to be seen as such; it must not stop the connection
			}
		}
	}

	// What comes.

	#take(text) {
		this.#heardAt = performance.now();
		let frame;
		try {
			frame = parse(text);
		} catch {
			return this.#drop("a frame that is no JSON");
		}
		if (!isObject(frame)) return this.#drop("a frame that is no object");
		switch (frame.event) {
		case "ready":
			return this.#ready(frame.data);
		case "ack":
			return this.#answered(frame);
		case "error":
			return this.#refused(frame);
		case "degraded":
			return this.#to("degraded");
		case "live":
			this.#to("live");
			this.#recovered();
			return this.#flush();
		case "expiring":
			return this.#expiring(frame.data);
		}
		if (frame.seq !== undefined) this.#event(frame);
	}

	#ready(data) {
		clearTimeout(this.#patience);
		this.#readyAt = Date.now();
		const returned = data.recovered === true;
		if (returned) {
			this.#missed ??= 0; // or it broke again before all had come
		} else {
			this.#since = data.seq;
			this.#missed = undefined;
			this.#last.clear();
			this.chats.clear(); // what has changed meanwhile nobody will tell
			this.#before.clear();
			this.#unknown.clear();
			this.#all = new Set(this.#followed());
			this.listing = new Set(this.#all);
		}
		for (const state of data.states ?? []) this.#know(state);
		for (const page of data.chats ?? []) this.#page(page);
		this.#beginning = true;
		this.#to("live");
		this.#emit("ready", data);
		if (data.recovered === false) this.#emit("lost", data);
		this.#beginning = false;
		if (this.state !== "live") {
			return; // somebody has closed it
		}
		this.#again();
		this.#watch();
		this.#refusals = 0;
		this.#list();
		this.#inquire();
		this.#flush();
	}

	/** The dealers all of whose chats it follows as an admin: by what was asked for or, unchecked, by what the token says. */
	#followed() {
		const claims = claimsOf(this.#token);
		const [role, dealers, groups] = ["role", "dealerId", "groupId"].map((name) => this.#options[name] ?? claims?.[name]);
		return role === "admin" && groups == null ? [dealers ?? []].flat().map(String) : [];
	}

	/** Asks for the lists that did not come with "ready", again and again until they have come. */
	#list() {
		this.#relist = null;
		if (this.state !== "live" && this.state !== "degraded") {
			return; // when it is back, then
		}
		const asked = new Set(Array.from(this.#calls.values(), ({event, data}) => event === "chats" && !data?.groupIds && data?.dealerId));
		for (const dealerId of this.listing) {
			if (asked.has(dealerId)) continue;
			this.more({dealerId}).catch((err) => this.#unlisted(dealerId, err));
		}
	}

	#unlisted(dealerId, err) {
		if (PASSING.has(err.code)) {
			this.#relist ??= setTimeout(() => this.#list(), pause({}, this.#refusals++, this.#options.backoff));
		} else if (err.code !== "closed") {
			this.listing.delete(dealerId);
			this.#emit("error", err);
		}
	}

	/** Asks what the chats were like that were in no list, before their first events came. */
	#inquire() {
		this.#inquiry = null;
		if (this.state !== "live" && this.state !== "degraded") {
			return; // when it is back, then
		}
		for (const dealerId of this.#all) {
			const chats = [...this.#unknown.values()].filter((chat) => !chat.asked && chat.dealerId === dealerId).slice(0, NAMED);
			if (chats.length === 0) continue;
			this.#inquiredAt = Date.now();
			for (const chat of chats) chat.asked = true;
			this.send("chats", {dealerId, groupIds: chats.map(({groupId}) => groupId)}).catch((err) => this.#unlearnt(chats, err));
			break; // the next one when it is time
		}
		if (Array.from(this.#unknown.values()).some(({asked}) => !asked)) this.#inquireIn(INQUIRY);
	}

	#inquireIn(ms) {
		this.#inquiry ??= setTimeout(() => this.#inquire(), ms);
	}

	#unlearnt(chats, err) {
		if (PASSING.has(err.code)) {
			for (const chat of chats) chat.asked = false;
			return this.#inquireIn(INQUIRY + pause({}, this.#refusals++, this.#options.backoff));
		}
		for (const {dealerId, groupId} of chats) this.#unknown.delete(chatKey(dealerId, groupId)); // it stays what was seen of it
		if (err.code !== "closed") this.#emit("error", err);
	}

	/** Takes in what a chat was like, and the events that came since. */
	#learn(state) {
		const key = chatKey(state.dealerId, state.groupId);
		const since = this.#unknown.get(key)?.events ?? [];
		this.#unknown.delete(key);
		this.#know(since.reduce(fold, state));
	}

	/** Follows again what the handshake has not named, before anything else is sent. */
	#again() {
		for (const call of this.#calls.values()) if (call.again) this.#settleCall(call, call.resolve); // it is made anew
		const kept = this.#kept();
		for (const groupId of this.#named) if (!kept.has(groupId)) this.#refollow("unfollow", {groupId});
		const isNew = ({groupId}) => groupId === undefined || !this.#named.has(String(groupId));
		for (const data of this.#follows.values()) if (isNew(data)) this.#refollow("follow", data);
		for (const {dealerId, groupId, ...join} of this.#joins.values()) {
			if (!isNew({groupId}) || this.#follows.has(chatKey(dealerId, groupId))) continue;
			if (this.#role() === "service") this.#refollow("follow", {dealerId, groupId}); // it has said that its customer is there
			else this.#refollow("client_join", {dealerId, groupId, ...join});
		}
	}

	/** Asks until it is granted, refused for good, or the connection is another one. */
	#refollow(event, data, tries = 0) {
		const socket = this.#socket;
		this.#send(event, data, {again: true}).catch((err) => {
			if (!PASSING.has(err.code)) return this.#emit("error", err);
			setTimeout(() => socket === this.#socket && this.#refollow(event, data, tries + 1), pause({}, tries, this.#options.backoff));
		});
	}

	/** All that was missed has come. */
	#recovered() {
		const missed = this.#missed;
		this.#missed = undefined;
		if (missed !== undefined) this.#emit("recovered", missed);
	}

	#event({event, data, seq, at}) {
		const key = chatKey(data.dealerId, data.groupId ?? "");
		if (seq <= (this.#last.get(key) ?? 0)) {
			return;
		}
		this.#last.set(key, seq);
		if (this.#last.size > 2 * KNOWN) this.#forgetQuiet();
		this.#since = Math.max(this.#since, seq);
		if (this.#own.has(nameOf(data))) {
			return; // the session that said this does not hear it, but a new one does not know that it is of ours
		}
		if (this.#missed !== undefined) this.#missed++;
		if (data.groupId !== undefined) this.#changed(key, {data, seq, at});
		this.#emit("event", {event, data, seq});
		this.#emit(event, data, seq);
	}

	/** Who listens for months hears of ever more chats. That one is muted must not be forgotten: nobody would say so again. */
	#forgetQuiet() {
		const least = [...this.#last.values()].sort((a, b) => b - a)[KNOWN - 1];
		for (const [key, seq] of this.#last) if (seq < least) this.#last.delete(key);
		for (const [key, {seq, muted}] of this.chats) if (seq < least && !muted) this.chats.delete(key);
	}

	/** Folds an event. Of a chat that was in no list it also asks what was before. */
	#changed(key, event) {
		const [dealerId, groupId] = [event.data.dealerId, event.data.groupId].map(String);
		if (!this.chats.has(key) && !this.#unknown.has(key) && this.#all.has(dealerId)) {
			this.#unknown.set(key, {dealerId, groupId, events: [], asked: false});
			this.#inquireIn(Math.min(Math.max(this.#inquiredAt + INQUIRY - Date.now(), INQUIRY / 20), INQUIRY));
		}
		this.#unknown.get(key)?.events.push(event);
		this.#set(key, fold(this.chats.get(key), event));
	}

	/** Takes in a state that the router tells, unless events have led further. */
	#know(state) {
		const key = chatKey(state.dealerId, state.groupId);
		if (state.seq >= (this.chats.get(key)?.seq ?? 0)) this.#set(key, state);
	}

	#set(key, state) {
		if (state && state !== this.chats.get(key)) {
			this.chats.set(key, state);
			this.#emit("states", key, state);
		}
	}

	#page({dealerId, chats, more}) {
		if (chats.length > 0) this.#before.set(dealerId, chats.at(-1).seq);
		for (const state of chats) this.#learn(state);
		this.listing.delete(dealerId);
		this.#emit("chats", {dealerId, chats, more});
	}

	/** A new connection with a new token, before the old one is no longer good: not of all clients in one moment. */
	#expiring(data) {
		this.#emit("expiring", data);
		if (typeof this.#options.token === "function") {
			this.#renewal = setTimeout(() => this.#renew(this.#socket), Math.random() * data.seconds * 500);
		}
	}

	async #renew(socket) {
		let token;
		try {
			token = await this.#ask();
		} catch (err) {
			return this.#emit("error", err); // it is asked for again when the old one has ended
		}
		if (token === this.#token || socket !== this.#socket) {
			return;
		}
		this.#forget();
		for (const call of this.#calls.values()) this.#ground(call);
		this.#to("connecting");
		this.#dial(token);
	}

	// What goes.

	#waiting() {
		let n = 0;
		for (const call of this.#calls.values()) n += !call.flying && !call.again;
		return n;
	}

	#flush() {
		for (const call of this.#calls.values()) {
			if (this.state === "live" && !this.#beginning && !call.flying) this.#transmit(call);
		}
	}

	#transmit(call) {
		if (!this.#socket || this.#isLate(call)) {
			return;
		}
		call.resent = call.sent > 0;
		call.sent ||= Date.now();
		call.flying = true;
		if (call.event === "customer_message") this.#mark(call.data);
		call.timer = setTimeout(() => this.#overdue(call), call.timeout);
		this.#socket.send(call.text);
	}

	#mark(data) {
		this.#own.add(nameOf(data));
		if (this.#own.size > OWN) this.#own.delete(this.#own.values().next().value);
	}

	/** The connection broke: it waits to be sent again, unless the stream might not know it any more. */
	#ground(call) {
		clearTimeout(call.timer);
		call.flying = false;
		this.#isLate(call);
	}

	/** Rejects a call that was sent so long ago that the stream might not know it any more. */
	#isLate(call) {
		const late = call.sent > 0 && Date.now() - call.sent > REMEMBERED;
		if (late) this.#reject(call, unknown);
		return late;
	}

	/** A router that lives answers sooner, if only that it cannot; or it is still busy with what was asked before. */
	#overdue(call) {
		this.#reject(call, {code: "timeout", message: "no answer came in time: it may be stored"});
		if (performance.now() - this.#heardAt >= call.timeout) this.#drop("no answer");
	}

	#answered({id, seq, state, data}) {
		const call = this.#calls.get(id);
		if (!call) {
			return;
		}
		if (state) this.#learn(state);
		if (call.event === "client_join") {
			const {messageId, ...join} = call.data;
			this.#joins.set(chatKey(join.dealerId, join.groupId), join);
		} else if (call.event === "customer_message") {
			this.#said(call.data, seq);
		} else if (call.event === "chats" && call.data?.groupIds) {
			for (const state of data.chats) this.#learn(state);
			for (const groupId of call.data.groupIds) this.#unknown.delete(chatKey(data.dealerId, groupId)); // what it does not tell of
		} else if (call.event === "chats" && data) {
			this.#page(data);
		}
		this.#settleCall(call, () => call.resolve({seq, state, data}));
	}

	/** What customers and services say themselves does not come back. An event before it may still come: seq stays. */
	#said(data, seq) {
		const key = chatKey(data.dealerId, data.groupId), state = this.chats.get(key);
		if (state) this.#set(key, {...fold(state, {data, seq}), seq: state.seq});
	}

	#refused({id, error}) {
		const call = this.#calls.get(id);
		if (!call) {
			this.#emit("error", new TelleError(error));
		} else if (error.code === "conflict" && call.resent && error.owner === outcome(call.data)) {
			// It was stored before the connection broke: what stands in its way is itself.
			this.#settleCall(call, () => call.resolve({}));
		} else {
			this.#reject(call, error);
		}
	}

	/** If it was stored all the same it is told when it comes back. */
	#reject(call, error) {
		if (call.event === "customer_message") this.#own.delete(nameOf(call.data));
		this.#settleCall(call, () => call.reject(new TelleError(error, call.data)));
	}

	#settleCall(call, settle) {
		clearTimeout(call.timer);
		this.#calls.delete(call.id);
		settle();
	}
}

const unknown = {code: "unavailable", message: "the connection was away for too long: it may be stored"};

/** What tells that the connection may have died without a word: [target, event]. */
const awakenings = () => [[globalThis, "online"], [globalThis, "pageshow"], [globalThis.document ?? {}, "visibilitychange"]];

const isObject = (data) => typeof data === "object" && data !== null && !Array.isArray(data);

/** What is wrong with what is to be sent, so that no router need be asked; undefined: nothing. */
function faultOf(event, data) {
	if (!isObject(data) && !(REQUESTS.has(event) && data === undefined)) {
		return `the data of ${event} must be an object`;
	}
	if (event === "history" && data?.groupId === undefined) {
		return "groupId is missing";
	}
	return undefined;
}

/** What a token says, unchecked: the router checks it. null: it is none. */
export function claimsOf(token) {
	try {
		const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
		return JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
	} catch {
		return null;
	}
}

/** What a message is known by. Customer and bot may both count from 1. */
const nameOf = ({dealerId, groupId, user, id, messageId}) => JSON.stringify([dealerId, groupId, user, id, messageId]);

/** Who has the chat after a MUTE_STATE. */
const outcome = ({muted, adminId}) => muted ? String(adminId) : null;

/**
 * How long to wait before the next attempt: what a router that drains says; else a random time, up to one that doubles
 * with each attempt, so that clients that were lost together do not come back together.
 */
export function pause({code, reason}, attempts, {first, most}, random = Math.random) {
	const hint = code === DRAIN && /(\d+) ms/.exec(reason ?? "");
	if (hint) {
		return Math.min(Number(hint[1]), LONGEST_HINT);
	}
	if (code === LIMIT) {
		return most / 2 + random() * most / 2;
	}
	return random() * Math.min(most, first * 2 ** Math.min(attempts, 30));
}

function address(text) {
	const url = new URL(text, globalThis.location?.href);
	url.protocol = url.protocol.replace(/^http/, "ws");
	if (!/^wss?:$/.test(url.protocol)) {
		throw new TypeError("url must begin with http, https, ws or wss");
	}
	if (url.pathname === "/") url.pathname = "/ws";
	return url;
}

/** An integer of more digits than a number can hold is another one afterwards; an id is the same as text. */
function parse(text) {
	return JSON.parse(text.replace(/"(dealerId|groupId|adminId)"\s*:\s*(-?\d{16,})(?=\s*[,}])/g, '"$1":"$2"'));
}

/** crypto.randomUUID is there on pages by https only, and not in all of Node.js 18. It need not be hard to guess. */
function uuid() {
	const random = () => Math.random().toString(36).slice(2);
	return globalThis.crypto?.randomUUID?.() ?? `${Date.now().toString(36)}-${random()}${random()}`;
}
