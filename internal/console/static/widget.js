// The chat of a dealer's web site. A dealer embeds it by one line:
//
//   <script src="https://ROUTER/widget.js" data-dealer="d1" async></script>
//
// data-group           the chat; without it a random one, which this browser keeps
// data-token-url       where the dealer's server says who the customer is: it answers with a token, as text or as
//                      {"token": "…"}; it is asked with the page's cookies, and again when a token ends
// data-token-function  instead: the name of a function of the page that returns a token, or a promise of one
// data-title           what stands on top
// data-theme           light or dark; without it, what the customer's system prefers
//
// It touches nothing of the page but one element at its end, whose inside the page's styles do not reach.
(() => {
	"use strict";
	const script = document.currentScript;
	const said = { ...script.dataset };
	const base = new URL(".", script.src);
	const dealer = said.dealer || "";
	const title = said.title || "Chat with us";
	const pageSize = 50;

	const style = `
:host { all: initial; color-scheme: light dark; }
* { box-sizing: border-box; }
[hidden] { display: none !important; }
.all {
	--paper: light-dark(#fff, #1a1e25); --text: light-dark(#171b21, #e8ebf0); --faint: light-dark(#545d6b, #a3adbb);
	--edge: light-dark(#767f8d, #7f8a9a); --accent: light-dark(#1f4fae, #8fb4ff); --on-accent: light-dark(#fff, #0c1a33);
	--mine: light-dark(#dde8fc, #223759); --theirs: light-dark(#edf0f4, #2a313c); --bad: light-dark(#b3261e, #ff9a90);
	--system: light-dark(#fdf1d4, #443810);
	position: fixed; right: 16px; bottom: 16px; z-index: 2147483000; color: var(--text);
	font: 15px/1.45 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
button, textarea { font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--edge); border-radius: 8px; }
button { cursor: pointer; padding: 6px 12px; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.opener { padding: 12px 20px; border: 0; border-radius: 24px; background: var(--accent); color: var(--on-accent); font-weight: 600; box-shadow: 0 2px 10px rgb(0 0 0 / .3); }
.panel {
	display: flex; flex-direction: column; width: min(360px, calc(100vw - 32px)); height: min(520px, calc(100vh - 32px));
	background: var(--paper); border: 1px solid var(--edge); border-radius: 12px; box-shadow: 0 6px 24px rgb(0 0 0 / .3); overflow: hidden;
}
.head { display: flex; align-items: center; gap: 8px; padding: 8px 8px 8px 14px; background: var(--accent); color: var(--on-accent); }
.head h2 { flex: 1; margin: 0; font-size: 16px; }
.head button { background: transparent; color: inherit; border-color: currentColor; }
.head :focus-visible { outline-color: currentColor; }
.state { margin: 0; padding: 4px 14px; color: var(--faint); font-size: 13px; }
.state.bad { color: var(--bad); font-weight: 600; }
.state:empty { padding: 0; }
.log { flex: 1; min-height: 0; overflow-y: auto; padding: 10px 14px; }
.log:focus-visible { outline-offset: -3px; }
.older { display: block; margin: 0 auto 8px; }
ol { display: flex; flex-direction: column; gap: 8px; margin: 0; padding: 0; list-style: none; }
li { max-width: 88%; padding: 6px 10px; border-radius: 10px; background: var(--theirs); white-space: pre-wrap; overflow-wrap: anywhere; }
li.me { align-self: flex-end; background: var(--mine); }
li.system { align-self: center; background: var(--system); }
li.mark { align-self: center; background: none; color: var(--faint); font-size: 13px; text-align: center; }
li small { display: block; color: var(--faint); font-size: 12px; }
li.failed { outline: 2px solid var(--bad); }
form { display: flex; gap: 8px; align-items: end; padding: 10px; border-top: 1px solid var(--edge); }
textarea { flex: 1; min-width: 0; resize: none; padding: 6px 8px; }
::placeholder { color: var(--faint); opacity: 1; }
.send { background: var(--accent); color: var(--on-accent); border-color: var(--accent); font-weight: 600; }
.label { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
`;

	/** Makes an element; its children are nodes or texts, and no text becomes markup. */
	function el(tag, properties, ...children) {
		const e = document.createElement(tag);
		for (const [name, value] of Object.entries(properties)) {
			if (name.startsWith("on")) e.addEventListener(name.slice(2), value);
			else e.setAttribute(name, value);
		}
		e.append(...children);
		return e;
	}

	const textOf = (message) => (typeof message === "string" ? message : JSON.stringify(message) ?? "");

	const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

	/** What this browser keeps, if it may keep anything. */
	const kept = {
		get(name) {
			try { return localStorage.getItem(`telle-${name}:${dealer}`); } catch { return null; }
		},
		set(name, value) {
			try { localStorage.setItem(`telle-${name}:${dealer}`, value); } catch { /* then only while the page is open */ }
		},
	};

	/** Of a customer whom a token names it is his: another one in the same browser has another. */
	function keptGroup(sub) {
		const name = sub === undefined ? "group" : `group-of-${sub}`;
		const group = kept.get(name) || `web-${newId()}`;
		kept.set(name, group);
		return group;
	}

	/** The function that says who the customer is; undefined: nobody asks. */
	function tokens() {
		const from = said.tokenFunction || said.tokenUrl;
		if (!from) return undefined;
		return async () => {
			const token = said.tokenFunction ? await ofFunction(from) : await ofURL(from);
			if (!claimsOf(token)) throw new Error(`${from} gave no token`);
			return token;
		};
	}

	function ofFunction(name) {
		if (typeof window[name] !== "function") throw new Error(`the page has no function ${name}`);
		return window[name]();
	}

	async function ofURL(url) {
		const answer = await fetch(url, { credentials: "include", cache: "no-store" }).catch(() => null);
		if (!answer) throw new Error(`${url} does not answer`);
		if (!answer.ok) throw new Error(`${url} answers ${answer.status}`);
		const text = (await answer.text()).trim();
		try {
			return JSON.parse(text).token;
		} catch {
			return text;
		}
	}

	/** What a token says, unchecked: the router checks it. null: it is none. */
	function claimsOf(token) {
		try {
			const part = token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/");
			return Object(JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0)))));
		} catch {
			return null;
		}
	}

	const ask = (e) => e.preventDefault();

	const unavailable = "The chat is not available right now.";

	/** Why a message was not stored, as far as the customer can do something about it; else he may try again. */
	const unsent = { closed: "the chat has ended", too_large: "it is too long", rate_limited: "too much at once" };

	/** Tells who has made the page what is wrong with it. The customer can do nothing about that. */
	const report = (error) => {
		if (error.code !== "closed") console.error(`telle chat: ${(error.cause ?? error).message}`); // else its end was reported
	};

	class Widget {
		constructor() {
			this.events = new Map(); // sequence -> {event, data}
			this.own = []; // what this page has said: {id, text, seq, error}
			this.rows = new Map(); // key -> {row, at}
			this.build();
		}

		build() {
			const host = el("div", { id: "telle-chat" });
			if (said.theme) host.style.colorScheme = said.theme;
			const root = host.attachShadow({ mode: "open" });
			const sheet = new CSSStyleSheet();
			sheet.replaceSync(style);
			root.adoptedStyleSheets = [sheet];

			this.opener = el("button", { type: "button", class: "opener", "aria-expanded": "false", onclick: () => this.open() }, title);
			this.state = el("p", { class: "state", role: "status" });
			this.older = el("button", { type: "button", class: "older", onclick: () => this.load() }, "Earlier messages");
			this.older.hidden = true;
			this.list = el("ol", {});
			this.log = el("div", { class: "log", role: "log", "aria-live": "off", "aria-label": "Messages", tabindex: "0" }, this.older, this.list);
			this.draft = el("textarea", { id: "draft", rows: "2", placeholder: "Write a message", onkeydown: (e) => this.key(e) });
			this.panel = el("div", { class: "panel", role: "dialog", "aria-label": title },
				el("div", { class: "head" }, el("h2", {}, title), el("button", { type: "button", onclick: () => this.close() }, "Close")),
				this.state, this.log,
				el("form", { onsubmit: (e) => { e.preventDefault(); this.say(); } },
					el("label", { for: "draft", class: "label" }, "Message"), this.draft,
					el("button", { type: "submit", class: "send" }, "Send")));
			this.panel.hidden = true;
			this.panel.addEventListener("keydown", (e) => { if (e.key === "Escape") this.close(); });
			root.append(el("div", { class: "all" }, this.panel, this.opener));
			document.body.append(host);
			if (kept.get("talked")) this.connect(); // so that an answer shows
		}

		open() {
			this.panel.hidden = false;
			this.opener.hidden = true;
			this.unseen = 0;
			this.opener.textContent = title;
			this.connect();
			this.draft.focus();
			this.log.scrollTop = this.log.scrollHeight;
		}

		close() {
			this.panel.hidden = true;
			this.opener.hidden = false;
			this.opener.focus();
		}

		show(text, bad = false) {
			if (this.state.textContent !== text) this.state.textContent = text;
			this.state.classList.toggle("bad", bad);
		}

		/** Connects, once. Where that fails before there is a connection, or it ends for good, the next call tries again. */
		connect() {
			if (this.connected) return this.connected;
			this.connected = this.begin();
			this.connected.catch((error) => {
				this.connected = undefined;
				report(error);
				this.show(unavailable, true);
			});
			return this.connected;
		}

		async begin() {
			this.show("Connecting …");
			const [{ connect }, who] = await Promise.all([import(new URL("sdk/telle.js", base).href), this.identify()]);
			this.chat = connect({ url: new URL("ws", base).href, role: "customer", ...who });
			this.listen();
		}

		/** Finds out who the customer is, and which chat is his. */
		async identify() {
			const token = tokens();
			if (!dealer) throw new Error("the page does not say whose it is, by data-dealer");
			if (!token) {
				this.group = said.group || keptGroup();
				return { dealerId: dealer, groupId: this.group };
			}
			const first = await token();
			const { dealerId, groupId, sub } = claimsOf(first);
			if (dealerId !== undefined && ![dealerId].flat().map(String).includes(dealer)) {
				throw new Error(`the token is for dealer ${dealerId}, and this page is of ${dealer}`);
			}
			this.group = String(groupId ?? (said.group || keptGroup(sub)));
			let next = first;
			return { groupId: this.group, token: async () => { const now = next ?? await token(); next = undefined; return now; } };
		}

		listen() {
			this.chat.on("state", (state, about) => this.tellState(state, about));
			this.chat.on("ready", (ready) => this.ready(ready));
			this.chat.on("lost", () => { this.loaded = false; this.load(); });
			this.chat.on("event", (e) => this.take(e));
			this.chat.on("error", report);
		}

		tellState(state, about) {
			if (state === "offline" && about.code === 4401 && !this.joined) { // also the next token may be refused
				report(new Error(about.reason || "the token is refused"));
				return this.show(unavailable, true);
			}
			if (state === "offline") {
				return this.show("No connection. What you write is sent when it is back.", true);
			}
			const words = {
				connecting: "Connecting …",
				degraded: "It takes longer just now. Nothing is lost.",
				closed: this.joined ? "The chat has ended." : unavailable,
			};
			this.show(words[state] ?? "", state === "closed");
			if (state === "closed") this.connected = this.joined = this.loaded = undefined; // who writes on tries anew
		}

		/** Says that the customer is here, once: who was reported gone and comes back, the router sees by itself. */
		ready() {
			if (!this.joined) {
				this.joined = true;
				this.send("client_join", { type: "CLIENT_JOIN" }).catch((error) => { this.joined = false; report(error); });
			}
			if (!this.loaded) this.load();
		}

		send(event, more) {
			return this.chat.send(event, { dealerId: dealer, groupId: this.group, user: "customer", ...more });
		}

		async load() {
			try {
				const before = this.loaded ? this.before : undefined;
				const page = await this.chat.history({ groupId: this.group, limit: pageSize, ...(before ? { before } : {}) });
				for (const e of page.events) this.events.set(e.seq, e);
				this.loaded = true;
				this.before = page.before;
				this.older.hidden = !page.more;
			} catch { /* what was said before is not shown; what is said now is */ }
			this.draw();
			setTimeout(() => this.log.setAttribute("aria-live", "polite")); // what was said before is not read out
		}

		take(e) {
			if (this.events.has(e.seq)) return;
			this.events.set(e.seq, e);
			const line = this.describe(e);
			if (line && line.kind !== "me" && this.panel.hidden) {
				this.unseen = (this.unseen ?? 0) + 1;
				this.opener.textContent = `${title} (${this.unseen} new)`;
			}
			this.draw();
		}

		say() {
			const text = this.draft.value.trim();
			if (!text) return;
			this.draft.value = "";
			kept.set("talked", "yes");
			const own = { id: newId(), text };
			this.own.push(own);
			this.deliver(own);
			this.log.scrollTop = this.log.scrollHeight;
		}

		/** Sends what the customer has said, for the first time or again: the same id is stored once. */
		async deliver(own) {
			own.error = "";
			this.draw();
			try {
				await this.connect();
				own.seq = (await this.send("customer_message", { type: "UPDATE_MSG", message: own.text, messageId: own.id })).seq;
			} catch (error) {
				own.error = unsent[error.code] ?? "please try again";
				if (error.code) report(error); // else connect has done so
			}
			this.draw();
		}

		discard(own) {
			this.own = this.own.filter((o) => o !== own);
			this.rows.get(own.id).remove();
			this.draw();
			this.draft.focus(); // the button that had it is gone
		}

		/** While something is not stored, the browser asks before the page goes. */
		guard() {
			if (this.own.some((own) => this.storedAt(own) === undefined)) addEventListener("beforeunload", ask);
			else removeEventListener("beforeunload", ask);
		}

		key(e) {
			if (e.key !== "Enter" || e.shiftKey || e.isComposing) return;
			e.preventDefault();
			this.say();
		}

		/** What an event is to the customer: {kind, text}; null: nothing. */
		describe({ event, data }) {
			switch (event) {
			case "CHAT_MESSAGE":
				if (data.user === "customer") return { kind: "me", text: textOf(data.message) };
				return { kind: "them", text: textOf(data.message), by: data.user === "admin" ? "A person" : "Assistant" };
			case "customer_message": return { kind: "me", text: textOf(data.message) };
			case "MUTE_STATE": return { kind: "mark", text: data.muted ? "A person is here now" : "The assistant is back" };
			case "CLOSE_CHAT": return { kind: "mark", text: "This chat was closed. Write to open it again." };
			case "SYS_MESSAGE": return { kind: "system", text: textOf(data.message) };
			}
			return null;
		}

		/** All lines in their order. What this page has said stands where the stream has it, and at the end until then. */
		lines() {
			const own = new Map(this.own.map((o) => [o.id, o]));
			const lines = [];
			for (const e of this.events.values()) {
				const line = this.describe(e);
				if (line && !own.has(e.data.messageId)) lines.push({ key: e.seq, at: e.seq, ...line });
			}
			this.own.forEach((o, i) => {
				const stored = this.storedAt(o);
				lines.push({ key: o.id, at: stored ?? Infinity, turn: i, kind: "me", text: o.text, own: o, stored });
			});
			return lines.sort((a, b) => (a.at === b.at ? (a.turn ?? 0) - (b.turn ?? 0) : a.at - b.at));
		}

		/** Where the stream has what this page has said; undefined: nobody knows that it has. */
		storedAt({ id, seq }) {
			if (seq !== undefined) return seq;
			for (const e of this.events.values()) if (e.data.messageId === id) return e.seq;
			return undefined;
		}

		draw() {
			const atEnd = this.log.scrollHeight - this.log.scrollTop - this.log.clientHeight < 40;
			let next = this.list.firstElementChild;
			for (const line of this.lines()) {
				let row = this.rows.get(line.key);
				if (!row) this.rows.set(line.key, row = this.row(line));
				if (line.own) this.fate(row, line);
				if (row === next) next = next.nextElementSibling;
				else this.list.insertBefore(row, next);
			}
			if (atEnd) this.log.scrollTop = this.log.scrollHeight;
			this.guard();
		}

		row(line) {
			const row = el("li", { class: line.kind });
			if (line.by) row.append(el("small", {}, line.by));
			row.append(line.text);
			if (line.own) row.append(el("small", { class: "fate" }));
			return row;
		}

		fate(row, { own, stored }) {
			const fate = row.lastElementChild;
			const error = stored ? "" : own.error;
			const now = error ? "failed" : stored ? "sent" : "sending …";
			if (stored) row.dataset.seq = stored;
			if (fate.dataset.now === now + error) return;
			fate.dataset.now = now + error;
			row.classList.toggle("failed", Boolean(error));
			if (!error) return fate.replaceChildren(now);
			fate.replaceChildren(`not sent: ${error} `,
				el("button", { type: "button", onclick: () => this.deliver(own) }, "Send again"), " ",
				el("button", { type: "button", onclick: () => this.discard(own) }, "Discard"));
		}
	}

	const start = () => new Widget();
	if (document.body) start();
	else document.addEventListener("DOMContentLoaded", start, { once: true });
})();
