// What people do and see, in words that scenarios use.

import assert from "node:assert/strict";
import { mkdirSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { join } from "node:path";

const patience = 15_000; // ms, only ever used up by a test that fails
const artifacts = process.env.BROWSER_ARTIFACTS || fileURLToPath(new URL("artifacts", import.meta.url));

/** Waits until what a function returns is as it should be. */
export async function until(what, look) {
	for (const late = Date.now() + patience; ;) {
		const seen = await look().catch((error) => error);
		if (seen === true) return;
		if (Date.now() > late) throw new Error(`waited in vain for ${what}: ${seen instanceof Error ? seen.message : JSON.stringify(seen)}`);
		await new Promise((resolve) => setTimeout(resolve, 20));
	}
}

/** Waits until what a function returns is this. */
export const becomes = (what, look, wanted) => until(what, async () => {
	const seen = await look();
	try {
		assert.deepEqual(seen, wanted);
	} catch {
		return seen;
	}
	return true;
});

/** The windows of one scenario. */
export class World {
	constructor(browser, routers, ask, name) {
		Object.assign(this, { browser, routers, ask, name });
		this.windows = [];
		this.faults = [];
		this.stayed = []; // who was asked whether to leave a page, and has not left it
		this.answers = []; // to what pages will ask
		this.asked = []; // what they have asked
		this.log = [];
	}

	/** Opens a window that shares nothing with the others. */
	async open(who, url, options = {}) {
		const context = await this.browser.newContext({ viewport: { width: 1280, height: 800 }, colorScheme: "light", reducedMotion: "reduce", ...options });
		const page = await context.newPage();
		page.setDefaultTimeout(patience);
		page.on("pageerror", (error) => this.faults.push(`${who}: ${error.stack}`));
		page.on("dialog", (dialog) => this.answer(who, dialog));
		page.on("console", (message) => this.hear(who, message));
		this.windows.push({ who, page, context });
		if (url) await page.goto(url);
		return page;
	}

	answer(who, dialog) {
		if (dialog.type() === "beforeunload") this.stayed.push(who);
		else if (this.answers.length > 0) this.asked.push(dialog.message());
		else this.faults.push(`${who}: a script that nobody should run says ${dialog.message()}`);
		return dialog.type() !== "beforeunload" && this.answers.shift() ? dialog.accept() : dialog.dismiss();
	}

	/** A page has told its developer what is wrong with it, as it should. */
	async complained(what) {
		const line = `: error: telle chat: ${what}`;
		await until(`a complaint that ${what}`, async () => this.faults.some((fault) => fault.endsWith(line)) || this.faults);
		this.faults = this.faults.filter((fault) => !fault.endsWith(line));
	}

	/** A page may complain that a router is away. Anything else it may not. */
	hear(who, message) {
		const line = `${who}: ${message.type()}: ${message.text()}`;
		this.log.push(line);
		const away = /WebSocket connection to|net::ERR_|status of 503/.test(message.text());
		if (message.type() === "error" && !away) this.faults.push(line);
	}

	check() {
		assert.deepEqual(this.faults, []);
	}

	story() {
		return this.log.join("\n");
	}

	/** Keeps pictures of all windows, for people. */
	async picture(moment) {
		mkdirSync(artifacts, { recursive: true });
		for (const { who, page } of this.windows) {
			const name = `${this.name} - ${moment} - ${who}.png`.replace(/[^\w .-]/g, "_").replaceAll(" ", "_");
			await page.screenshot({ path: join(artifacts, name) }).catch(() => {}); // a window may be gone
		}
	}

	async close() {
		for (const { context } of this.windows) await context.close();
	}

	async admin(router, dealer, id, options) {
		const url = `${this.routers[router]}/#${new URLSearchParams({ dealer, admin: id })}`;
		const admin = new Admin(await this.open(id, options?.prepare ? "" : url, options?.context), id);
		if (options?.prepare) {
			await options.prepare(admin.page);
			await admin.page.goto(url);
		}
		await admin.health("live");
		return admin;
	}

	async customer(router, dealer, group, options) {
		const page = await this.open("customer", `${this.routers[router]}/widget?${new URLSearchParams({ dealer, group })}`, options);
		return new Customer(page);
	}

	/** Somebody closes his window, and the page asks whether he means it, or goes. */
	async leave(page, asks) {
		const before = this.stayed.length;
		const gone = new Promise((resolve) => page.once("close", () => resolve("gone")));
		await page.close({ runBeforeUnload: true });
		if (!asks) return gone;
		await becomes("the page to ask", async () => this.stayed.length - before, 1);
	}

	/** What a bot says: by Redis, as another server. */
	bot(dealerId, groupId, message, user = "bot") {
		return this.publish({ type: "UPDATE_MSG", dealerId, groupId, user, message });
	}

	publish(event) {
		return this.ask("publish", JSON.stringify(event));
	}

	/**
	 * Fails unless the windows show of the conversation what the stream has of it, each once and in its order. What was
	 * said to all chats is there for who was there, but is not read back with one of them.
	 */
	async countAll(dealer, group, { admins = [], customers = [], readBack = false }) {
		const stored = (await this.ask("stored", dealer, group)).filter(({ data }) => !readBack || data.groupId !== undefined);
		const said = stored.filter(({ data }) => data.message !== undefined);
		const ids = said.map(({ data }) => data.messageId).filter(Boolean);
		assert.equal(new Set(ids).size, ids.length, "the stream has a message twice");
		const wanted = said.map(({ seq }) => seq);
		for (const a of admins) await becomes(`what ${a.id} has, by sequence`, () => a.sequences(), wanted);
		const texts = said.map(({ data }) => (typeof data.message === "string" ? data.message : JSON.stringify(data.message)));
		for (const c of customers) await becomes("what the customer has", () => c.texts(), texts);
	}
}

/** An admin with a console. */
export class Admin {
	constructor(page, id) {
		this.page = page;
		this.id = id;
		this.list = page.getByRole("listbox", { name: "Chats, latest first" });
		this.draft = page.getByRole("textbox", { name: "Reply to the customer" });
		this.notice = page.locator("#notice");
		this.state = page.locator("#chat-state");
	}

	/** Says who he is, where the console asks for it. */
	async signIn(dealer, id) {
		await this.page.getByRole("textbox", { name: "Dealer" }).fill(dealer);
		await this.page.getByRole("textbox", { name: "Your admin id" }).fill(id);
		await this.button("Sign in").click();
		await this.health("live");
	}

	/** All that the page holds, also where nobody sees it. */
	everything() {
		return this.page.evaluate(() => [document.title, document.documentElement.outerHTML,
			...[...document.querySelectorAll("input, textarea, select")].map((field) => field.value)].join("\n"));
	}

	health(state) {
		return becomes(`${this.id}'s console to be ${state}`, () => this.page.locator("#health").getAttribute("data-state"), state);
	}

	chat(name) {
		return this.list.locator(".chat", { has: this.page.locator(".name", { hasText: name }) });
	}

	/** What the list says of a chat, in words. */
	marks(name, wanted) {
		return until(`${this.id}'s list to say ${wanted} of ${name}`, async () => {
			const texts = await this.chat(name).locator(".name, .marks, .unread").allTextContents();
			const words = texts.filter(Boolean).join(", ");
			return wanted.test(words) || words;
		});
	}

	select(name) {
		return this.chat(name).click();
	}

	button(name) {
		return this.page.getByRole("button", { name, exact: true });
	}

	async reply(text) {
		await this.draft.fill(text);
		await this.draft.press("Enter");
	}

	/** The chats that are listed, from the top. */
	names() {
		return this.list.locator(".chat .name").allTextContents();
	}

	lines() {
		return this.page.locator("#lines > li").evaluateAll((all) => all.map((l) => l.querySelector(".text")?.textContent ?? l.firstElementChild.textContent));
	}

	sees(text) {
		return until(`${this.id} to see ${text}`, async () => (await this.lines()).includes(text));
	}

	sequences() {
		return this.page.locator("#lines > li.line").evaluateAll((all) => all.map((l) => Number(l.dataset.seq)));
	}

	says(wanted) {
		return until(`${this.id}'s console to say ${wanted} of the chat`, async () => {
			const text = await this.state.textContent();
			return wanted.test(text) || text;
		});
	}
}

/** A customer with the widget. Playwright looks into its shadow root by itself. */
export class Customer {
	constructor(page) {
		this.page = page;
		this.opener = page.locator("#telle-chat .opener");
		this.panel = page.getByRole("dialog", { name: "Chat with us" });
		this.draft = page.getByRole("textbox", { name: "Message" });
		this.state = page.locator("#telle-chat .state");
	}

	async say(text) {
		if (await this.opener.isVisible()) await this.opener.click();
		await this.draft.fill(text);
		await this.draft.press("Enter");
	}

	/** What was said, marks aside. */
	texts() {
		return this.panel.locator("li:not(.mark)").evaluateAll((all) => all.map((l) =>
			[...l.childNodes].filter((n) => n.nodeType === Node.TEXT_NODE).map((n) => n.data).join("")));
	}

	sees(text) {
		return until(`the customer to see ${text}`, async () => {
			const texts = await this.panel.locator("li").allTextContents();
			return texts.some((t) => t.includes(text)) || texts;
		});
	}

	tells(wanted) {
		return until(`the widget to tell ${wanted}`, async () => {
			const text = await this.state.textContent();
			return wanted.test(text) || text;
		});
	}
}

/**
 * Puts a gate before a page's sockets: what comes for it waits while the gate is shut. While it is late, so do lists of
 * chats only, and are left out of "ready". While it is deaf, nothing that the page sends goes through.
 */
export async function gate(page) {
	const g = { shut: false, late: false, deaf: false, held: [], sent: [] };
	await page.routeWebSocket(/\/ws\?/, (socket) => {
		const server = socket.connectToServer();
		server.onMessage((message) => {
			const { event, data } = JSON.parse(message);
			const list = g.late && data?.chats;
			if (list && event === "ready") socket.send(JSON.stringify({ event, data: { ...data, chats: undefined } }));
			else if (list || g.shut) g.held.push(() => socket.send(message));
			else socket.send(message);
		});
		socket.onMessage((message) => {
			g.sent.push({ ...JSON.parse(message), at: Date.now() });
			if (!g.deaf) server.send(message);
		});
		g.end = (code, reason) => socket.close({ code, reason });
	});
	g.open = () => {
		g.shut = g.late = g.deaf = false;
		for (const send of g.held.splice(0)) send();
	};
	return g;
}
