// For everybody: by keyboard, in light and dark, in any window, and for who does not see it.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { Admin, becomes, gate, until } from "./kit.mjs";

const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** Fails if axe-core finds a fault that keeps somebody from something. */
async function faultless(page, where) {
	for (const colorScheme of ["light", "dark"]) {
		await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
		if (!await page.evaluate(() => "axe" in window)) await page.evaluate(axe);
		const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
		const bad = violations.filter(({ impact }) => impact === "serious" || impact === "critical");
		assert.deepEqual(bad.map((v) => `${v.id}: ${v.nodes.map((n) => `${n.target} ${n.failureSummary}`).join("; ")}`), [], `${where}, ${colorScheme}`);
	}
}

/** Nothing is cut off sideways. */
async function fits(page, where) {
	for (const width of [1280, 800, 400]) {
		await page.setViewportSize({ width, height: 800 });
		const wide = await page.evaluate(() => document.documentElement.scrollWidth);
		assert.ok(wide <= width, `${where} is ${wide} wide in a window of ${width}`);
	}
	await page.setViewportSize({ width: 1280, height: 800 });
}

/** Also in a low window no part of a column lies on another, and something of the conversation can be seen. */
async function stands(page) {
	for (const [width, height] of [[1280, 400], [800, 320], [640, 360], [320, 256]]) {
		await page.setViewportSize({ width, height });
		const cut = await page.evaluate(() => {
			const seen = (e) => e.getClientRects().length > 0;
			const columns = [...document.querySelectorAll(".column")].filter(seen);
			const out = columns.flatMap((column) => [...column.children].filter((e) => seen(e) &&
				e.getBoundingClientRect().bottom > column.getBoundingClientRect().bottom + 1));
			const low = [document.getElementById("log")].filter((e) => seen(e) && e.clientHeight < 60);
			const short = [...document.querySelectorAll("button")].filter((e) => seen(e) && e.scrollWidth > e.clientWidth);
			return [...out, ...low, ...short].map((e) => `${e.id || e.className} at ${JSON.stringify(e.getBoundingClientRect())}`);
		});
		assert.deepEqual(cut, [], `a window of ${width} × ${height}`);
		const wide = await page.evaluate(() => document.documentElement.scrollWidth);
		assert.ok(wide <= width, `${wide} wide in a window of ${width} × ${height}`);
	}
	await page.setViewportSize({ width: 1280, height: 800 });
}

async function noAccessibilityFault(world) {
	const [dealer, group] = ["access", "g1"];
	const form = await world.open("form", `${world.routers[0]}/`);
	await form.getByRole("button", { name: "Sign in" }).click(); // so that its error shows
	await faultless(form, "sign-in");
	await fits(form, "sign-in");
	const empty = await world.admin(0, "nobody's", "a1");
	await faultless(empty.page, "console, no chats");

	const customer = await world.customer(2, dealer, group);
	await faultless(customer.page, "widget, closed");
	await customer.say("hello");
	await world.bot(dealer, group, "I am the bot");
	await customer.sees("I am the bot");
	const a1 = await world.admin(0, dealer, "a1");
	await faultless(a1.page, "console, nothing selected");
	await a1.select(group);
	await a1.sees("hello");
	await a1.button("Take over").click();
	await a1.says(/you have the chat/);
	await a1.reply("I am a person");
	await customer.sees("I am a person");
	await a1.page.locator("#events summary").first().click();
	await becomes("nothing to be on its way", () => a1.page.locator("#lines .fate").count(), 0);
	await faultless(a1.page, "console, a chat selected");
	await fits(a1.page, "console");
	await stands(a1.page);
	await faultless(customer.page, "widget, open");
	await fits(customer.page, "widget");
	await world.picture("dark");
	await a1.button("System message").click();
	await faultless(a1.page, "console, the dialog open");

	const narrow = await world.admin(1, dealer, "a2", { context: { viewport: { width: 400, height: 800 } } });
	await narrow.select(group);
	await narrow.sees("hello");
	const events = narrow.page.locator("#events > li").first();
	assert.equal(await events.isVisible(), false);
	await faultless(narrow.page, "console, narrow");
	await narrow.page.getByRole("button", { name: /^Show Events/ }).click();
	await customer.say("another one");
	await events.waitFor();
	await faultless(narrow.page, "console, narrow, with events");
	await stands(narrow.page);
	await narrow.page.setViewportSize({ width: 400, height: 800 });
	await narrow.button("Chats").click();
	await narrow.chat(group).waitFor();
	await stands(narrow.page);
}

/** The main story without a mouse. */
async function byKeyboardAlone(world) {
	const dealer = "keys";
	const page = await world.open("a1", `${world.routers[0]}/`);
	const key = (...keys) => keys.reduce((before, k) => before.then(() => page.keyboard.press(k)), Promise.resolve());
	const type = (text) => page.keyboard.type(text);
	const focused = (what, wanted) => becomes(`the focus to be on ${what}`, () => page.evaluate(() => document.activeElement.id || document.activeElement.className), wanted);
	await focused("the first field", "dealer");
	await type(dealer);
	await key("Tab");
	await type("a1");
	await key("Enter");
	const a1 = new Admin(page, "a1");
	await a1.health("live");
	await focused("the search", "search");

	for (const group of ["g1", "g2", "g3"]) {
		const window = await world.open(`customer of ${group}`, `${world.routers[2]}/widget?${new URLSearchParams({ dealer, group })}`);
		await window.locator("#telle-chat .opener").waitFor();
		await tabTo(window, ".opener");
		await window.keyboard.press("Enter");
		await window.keyboard.type(`I am in ${group}`);
		await window.keyboard.press("Enter");
		await a1.marks(group, /1 unread message/);
		await window.keyboard.press("Escape");
		await becomes("the focus to be back on what opens it", () => window.evaluate(() => document.activeElement.shadowRoot?.activeElement?.className), "opener");
	}

	// The latest is first: g3, g2, g1.
	await key("Tab", "Tab");
	await focused("the list", "chat online");
	await key("ArrowDown", "ArrowDown", "ArrowDown", "ArrowUp", "Home", "End");
	await key("Enter");
	await becomes("g1 to be selected", () => page.locator("#chat-title").textContent(), "g1");
	await focused("the reply", "draft");
	await a1.sees("I am in g1");
	await a1.marks("g1", /^g1, online$/);
	assert.deepEqual(await a1.names(), ["g3", "g2", "g1"], "a chat moves when it is read");
	await type("first line");
	await key("Shift+Enter");
	await type("second line");
	await key("Enter");
	await a1.sees("first line\nsecond line");
	await becomes("the list to have it first", () => a1.names(), ["g1", "g3", "g2"]);

	const press = async (name) => {
		await tabTo(page, `#${name}`, "Shift+Tab");
		await key("Enter");
	};
	await press("mute");
	await a1.says(/you have the chat/);
	await focused("the button still", "mute");
	await key("Enter");
	await a1.says(/the bot speaks/);
	await key("Tab");
	await focused("take over", "take");
	await key("Enter");
	await a1.says(/you have the chat/);
	await focused("the button still", "take");

	await tabTo(page, "#system", "Tab");
	await key("Enter");
	await focused("the dialog's field", "system-text");
	await key("Escape");
	await focused("what opened it", "system");
	await key("Enter");
	await type("by keyboard");
	await key("Tab", "ArrowDown", "Tab", "Tab", "Enter");
	await a1.sees("by keyboard");

	await press("close");
	await a1.says(/closed/);
	await tabTo(page, "#pause", "Tab");
	await key("Space");
	await until("the events to stand still", async () => /^Paused/.test(await page.locator("#pause").textContent()));
	// What is new is read out, to who does not see it.
	await until("what was said to be read out", async () => (await page.locator("#announce").textContent()).length > 0);
}

/** Presses Tab until an element has the focus, as a person would. */
async function tabTo(page, selector, tab = "Tab") {
	for (let i = 0; i < 60; i++) {
		if (await page.evaluate((s) => (document.activeElement.shadowRoot?.activeElement ?? document.activeElement).matches(s), selector)) return;
		await page.keyboard.press(tab);
	}
	throw new Error(`${tab} does not lead to ${selector}`);
}

/** A router that asks for tokens. */
async function withTokens(world) {
	const [dealer, group] = ["jwt", "g1"];
	const base = world.routers[3];
	const token = await world.ask("token", "admin", dealer, "a1");
	const page = await world.open("a1", `${base}/#token=${token}`);
	const a1 = new Admin(page, "a1");
	await a1.health("live");
	assert.equal(page.url(), `${base}/`, "the token stays in the address");
	await page.reload();
	await a1.health("live");

	// A link that is opened where somebody is signed in, by the link of before, does not make somebody else of him unasked.
	const follow = async (link, agrees, wanted) => {
		world.answers.push(agrees);
		await page.evaluate((hash) => { location.hash = hash; }, `token=${link}`);
		await becomes("the page to ask", async () => world.asked.splice(0),
			["You are signed in as a1 of jwt. The link signs in as a2 of jwt. Sign in as a2 of jwt?"]);
		await until(`the console to be ${wanted}'s`, async () => (await page.locator("#who").textContent()).startsWith(`Signed in as ${wanted} of jwt, by the link · session`));
	};
	const other = await world.ask("token", "admin", dealer, "a2");
	await follow(other, false, "a1");
	world.answers.push(true);
	await page.evaluate(() => { location.hash = "token=nonsense"; });
	await becomes("the page to say that it is no link", async () => world.asked.splice(0), ["The link signs nobody in. You are still signed in as a1 of jwt."]);
	await a1.health("live");
	await follow(other, true, "a2");
	await becomes("that to be read out", () => page.locator("#announce").textContent(), "Signed in as a2 of jwt, by the link");

	const site = await world.open("customer", `${base}/widget?dealer=${dealer}`);
	const opener = site.locator("#telle-chat .opener");
	await opener.click();
	await becomes("the page to say that a token is missing", () => site.locator("#token-note").textContent(), "Paste a token first.");
	await becomes("the widget to say that it cannot", () => site.locator("#telle-chat .state").textContent(), "The chat is not available right now.");
	await world.complained("no token was pasted");
	await site.keyboard.press("Escape");
	await site.getByRole("textbox", { name: "Token of a customer" }).fill(await world.ask("token", "customer", dealer, group));
	await site.getByRole("button", { name: "Use it" }).click();
	await opener.click();
	await site.getByRole("textbox", { name: "Message" }).fill("I have a token");
	await site.keyboard.press("Enter");
	await a1.marks(group, /1 unread message/);
	await a1.select(group);
	await a1.sees("I have a token");
	await world.picture("tokens");

	// A token that does not say who it is for is kept until somebody does.
	const nameless = await world.open("a9", `${base}/#token=${await world.ask("token", "admin", dealer, "")}`);
	await until("the console to ask who it is", async () => /say under which id you act/.test(await nameless.locator("#sign-in-error").textContent()));
	await becomes("the focus to be where it is said", () => nameless.evaluate(() => document.activeElement.id), "admin");
	await nameless.keyboard.type("a9");
	await nameless.keyboard.press("Enter");
	await new Admin(nameless, "a9").health("live");

	await page.getByRole("button", { name: "Sign out" }).click();
	await page.getByRole("textbox", { name: "Token of an admin" }).fill("nonsense");
	await page.getByRole("button", { name: "Sign in" }).click();
	await becomes("what is wrong to be said", () => page.locator("#sign-in-error").textContent(), "That is not a token.");
	const forged = token.replace(/\.[^.]*$/, `.${"A".repeat(43)}`);
	await page.getByRole("textbox", { name: "Token of an admin" }).fill(forged);
	await page.getByRole("button", { name: "Sign in" }).click();
	await until("the router's word", async () => (await page.locator("#sign-in-error").textContent()).length > 10 && await page.locator("#columns").isHidden());
	assert.equal(await page.evaluate(() => sessionStorage.length), 0, "a token that does not count is kept");
}

/** One line on the page of another origin, which allows next to nothing. */
async function onADealersOwnSite(world) {
	const admin = await world.open("a1", `${world.routers[3]}/#token=${await world.ask("token", "admin", "dealer", "a1")}`);
	const a1 = new Admin(admin, "a1");
	await a1.health("live");
	const site = await world.open("customer", "");
	const g = await gate(site);
	await site.goto(await world.ask("dealer"));
	const say = async (text) => {
		await site.getByRole("textbox", { name: "Message" }).fill(text);
		await site.keyboard.press("Enter");
	};
	const state = (wanted) => becomes("the widget to tell", () => site.locator("#telle-chat .state").textContent(), wanted);

	// Why there is no token of the dealer's is for who has made the page. It is asked for again.
	const fate = site.locator("#telle-chat li.failed .fate");
	const unavailable = "The chat is not available right now.";
	for (const [body, why] of [
		["<h1>nonsense</h1>", "/token gave no token"],
		["{}", "/token gave no token"],
		[await world.ask("token", "customer", "other", "anna"), "the token is for dealer other, and this page is of dealer"],
	]) {
		await site.route("**/token", (route) => route.fulfill({ body }));
		await site.getByRole("button", { name: "Ask us" }).click();
		await state(unavailable);
		await say("Is anybody there?");
		await becomes("it not to be sent", () => fate.textContent(), "not sent: please try again Send again Discard");
		await site.getByRole("button", { name: "Discard" }).click();
		await world.complained(why);
		await site.getByRole("button", { name: "Close" }).click();
		await site.unroute("**/token");
	}
	const forged = (await world.ask("token", "customer", "dealer", "anna")).replace(/\.[^.]*$/, `.${"A".repeat(43)}`);
	await site.route("**/token", (route) => route.fulfill({ body: forged }));
	await site.getByRole("button", { name: "Ask us" }).click();
	await state(unavailable);
	await site.unroute("**/token");
	await state("");
	await world.complained("token has a signature that does not count");
	await say("I am Anna");
	await a1.marks("anna", /1 unread message/);
	await a1.select("anna");
	await a1.sees("I am Anna");
	await a1.reply("Hello Anna");
	await until("the answer", async () => (await site.locator("#telle-chat li").allTextContents()).some((t) => t.includes("Hello Anna")));
	// Its styles came along, though the page forbids them.
	assert.equal(await site.locator("#telle-chat .all").evaluate((e) => getComputedStyle(e).position), "fixed");
	assert.equal(await site.locator("#telle-chat .panel").evaluate((e) => getComputedStyle(e).backgroundColor), "rgb(26, 30, 37)");
	await world.picture("dealer");

	// Without a network there is no token to be had either: what is written waits all the same.
	let asked = 0;
	await site.route("**/token", (route) => { asked++; return route.abort(); });
	g.end(1001, "");
	await until("the widget to ask for a token again and again", async () => asked >= 3 || asked);
	await becomes("it to say what becomes of a message", () => site.locator("#telle-chat .state").textContent(), "No connection. What you write is sent when it is back.");
	await say("And now?");
	await site.unroute("**/token");
	await a1.sees("And now?");
	await state("");
	await world.complained("/token does not answer");

	// What ends for good can be begun anew, and what was not stored is not left unasked.
	g.deaf = true;
	await say("Still there?");
	await world.leave(site, true);
	g.end(4403, "not for here any more");
	await state("The chat has ended.");
	await world.complained("not for here any more");
	const lost = site.locator("#telle-chat li.failed");
	await becomes("it to be said", () => fate.textContent(), "not sent: the chat has ended Send again Discard");
	g.open();
	await lost.getByRole("button", { name: "Send again" }).click();
	await a1.sees("Still there?");
	await state("");
	await becomes("it to be stored", () => lost.count(), 0);
	await world.leave(site, false);
}

export const scenarios = {
	"on a dealer's own site": onADealersOwnSite,
	"no accessibility fault": noAccessibilityFault,
	"by keyboard alone": byKeyboardAlone,
	"with tokens": withTokens,
};
