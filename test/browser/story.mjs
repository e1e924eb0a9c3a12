// The main story, as people play it.

import assert from "node:assert/strict";
import { becomes, gate, until } from "./kit.mjs";

async function aCustomerAndTwoAdmins(world) {
	const [dealer, group] = ["story", "g1"];
	const a1 = await world.admin(0, dealer, "a1");
	const a2 = await world.admin(1, dealer, "a2");
	const customer = await world.customer(2, dealer, group);

	await customer.say("Is the van still there?");
	for (const admin of [a1, a2]) await admin.marks(group, /^g1, online, 1 unread message/);

	await world.bot(dealer, group, "It is. Do you want to drive it?");
	await customer.sees("It is. Do you want to drive it?");

	// Who looks at it has read it, and the other one need not.
	await a1.select(group);
	await a1.sees("Is the van still there?");
	await a1.sees("It is. Do you want to drive it?");
	await a2.marks(group, /^g1, online$/);

	await a1.button("Mute bot").click();
	await customer.sees("A person is here now");
	await a1.says(/you have the chat/);
	await a2.marks(group, /muted by a1/);
	await a1.button("Unmute bot").click();
	await customer.sees("The assistant is back");
	await a2.marks(group, /^g1, online$/);

	await a1.button("Take over").click();
	await a1.sees("You have taken the chat over");
	await a1.reply("Good morning, this is\na person.");
	await customer.sees("Good morning, this is");
	await a2.select(group);
	await a2.says(/a1 has the chat/);
	await a2.sees("a1 has taken the chat over");
	await customer.say("Good morning!");
	await a1.sees("Good morning!");
	await world.picture("played");

	await systemMessage(a2, "We close at six.", false);
	await customer.sees("We close at six.");
	await systemMessage(a2, "To everybody.", true);
	await customer.sees("To everybody.");
	await a1.sees("To everybody.");

	await a1.button("Close chat").click();
	await customer.sees("This chat was closed");
	await a2.marks(group, /closed/);
	await world.countAll(dealer, group, { admins: [a1, a2], customers: [customer] });

	// What was said is there for who comes later: a new admin, and the customer's next page.
	const a3 = await world.admin(2, dealer, "a3");
	assert.equal(await a3.chat(group).count(), 0, "a closed chat is listed among the open ones");
	await customer.page.reload();
	await customer.say("One more thing:");
	await a3.select(group);
	await a3.sees("One more thing:");
	await world.countAll(dealer, group, { admins: [a3], customers: [customer], readBack: true });

	await customer.page.close();
	await a3.marks(group, /^g1, offline/);
	await a3.sees("The customer has gone");
}

async function systemMessage(admin, text, toAll) {
	await admin.button("System message").click();
	const dialog = admin.page.getByRole("dialog", { name: "System message" });
	await dialog.getByRole("textbox", { name: "Message" }).fill(text);
	if (toAll) await dialog.getByRole("radio", { name: /All chats/ }).check();
	await dialog.getByRole("button", { name: "Send" }).click();
	await dialog.waitFor({ state: "hidden" });
}

/** Two click before either of them can have heard of the other. */
async function oneOfTwoHasTheChat(world) {
	const [dealer, group] = ["race", "g1"];
	const gates = [];
	const prepare = async (page) => gates.push(await gate(page));
	const admins = [await world.admin(0, dealer, "a1", { prepare }), await world.admin(1, dealer, "a2", { prepare })];
	const customer = await world.customer(2, dealer, group);
	await customer.say("hello");
	for (const admin of admins) {
		await admin.select(group);
		await admin.sees("hello");
		await admin.marks(group, /^g1, online$/);
	}
	for (const g of gates) g.shut = true;
	await Promise.all(admins.map((a) => a.button("Take over").click()));
	for (const g of gates) {
		await until("both to have asked", async () => g.sent.some(({ event, data }) => event === "MUTE_STATE" && data.ifOwner === null));
	}
	for (const g of gates) g.open();

	const winner = await until2("one of them to have the chat", admins, async (a) => /you have the chat/.test(await a.state.textContent()));
	const loser = admins.find((a) => a !== winner);
	await becomes("the other one to be told who has", () => loser.notice.textContent(), `Not taken over: ${winner.id} has the chat`);
	await loser.says(new RegExp(`${winner.id} has the chat`));
	assert.equal(await winner.notice.textContent(), "");
	const stored = await world.ask("stored", dealer, group);
	assert.deepEqual(stored.filter(({ data }) => data.type === "MUTE_STATUS").map(({ data }) => data.adminId), [winner.id]);
	await world.picture("decided");

	// Who is told so may still take it, knowing from whom.
	await loser.button(`Take over from ${winner.id}`).click();
	await loser.says(/you have the chat/);
	await winner.says(new RegExp(`${loser.id} has the chat`));
	await becomes("who had the chat to be told", () => winner.notice.textContent(), `${loser.id} has taken the chat over from you`);
	await becomes("the former owner to be named", () => winner.page.locator("#take").textContent(), `Take over from ${loser.id}`);
}

/** Who has a chat and loses it is told by whom. What an admin does is done once, and to the chat that he meant. */
async function whatIsTakenAway(world) {
	const dealer = "away";
	let g;
	const a1 = await world.admin(0, dealer, "a1", { prepare: async (page) => { g = await gate(page); } });
	const a2 = await world.admin(1, dealer, "a2");
	const says = (group, text) => world.bot(dealer, group, text, "customer");
	const told = (text) => becomes(`a1 to be told "${text}"`, () => a1.notice.textContent(), text);
	const takes = async () => {
		await a1.button("Take over").click();
		await a1.says(/you have the chat/);
		await a2.says(/a1 has the chat/);
		await told("");
	};
	for (const group of ["g1", "g2"]) await says(group, "hello");
	for (const admin of [a1, a2]) await admin.select("g1");

	await takes();
	await a2.button("Unmute bot").click();
	await told("a2 has given the chat back to the bot");
	await takes();
	await a1.button("Unmute bot").click();
	await a1.sees("You have unmuted the bot");
	await told("");
	await takes();
	await a1.select("g2");
	await a2.button("Close chat").click();
	await told("a2 has closed g1");

	// To read is stored, too: not more often than needed.
	const read = () => a1.marks("g2", /^g2, offline$/);
	await read();
	for (const text of ["one", "two"]) {
		await says("g2", text);
		await a1.sees(text);
		await read();
	}
	const reads = g.sent.filter(({ event, data }) => event === "CHAT_READ" && data.groupId === "g2").map(({ at }) => at);
	assert.equal(reads.length, 3, "each was read by itself");
	reads.slice(1).forEach((at, i) => assert.ok(at - reads[i] > 700, `CHAT_READ after ${at - reads[i]} ms`));

	// What waits for its answer is not asked for again, and another chat does not wait for it.
	await says("g1", "hello again");
	await a1.select("g1");
	await a1.sees("hello again");
	g.shut = true;
	for (let i = 0; i < 2; i++) await a1.button("Close chat").click();
	await a1.select("g2");
	await a1.button("Close chat").click();
	await becomes("both to be closed", async () => g.sent.filter(({ event }) => event === "CLOSE_CHAT").map(({ data }) => data.groupId), ["g1", "g2"]);
	g.open();
	await a1.says(/closed/);
}

/** Waits until something holds of one of several, and returns that one. */
async function until2(what, all, holds) {
	let found;
	await until(what, async () => {
		for (const each of all) if (await holds(each)) found = each;
		return found !== undefined;
	});
	return found;
}

const evil = [
	`<img src=x onerror="alert(1)">`, `"><svg onload=alert(2)>`, `<script>alert(3)</script>`, `javascript:alert(4)`, "{{7*7}}", `'" onfocus=alert(5) autofocus x='`,
];

/** What others say and how they call themselves is text, wherever it stands. */
async function markupIsText(world) {
	const [dealer, group, id] = [`<img src=x onerror=alert(6)>`, `g"><svg onload=alert(7)>`, `<b onclick=alert(8)>a1</b>`];
	const customer = await world.customer(2, dealer, group);
	for (const text of evil) await customer.say(text);
	const a1 = await world.admin(0, dealer, id);
	await a1.select(group);
	for (const text of evil) await a1.sees(text);
	for (const text of evil) await a1.reply(text);
	await a1.button("Take over").click();
	await systemMessage(a1, evil[0], true);
	await world.bot(dealer, group, { html: evil[0] });
	await customer.sees(JSON.stringify({ html: evil[0] }));
	await a1.sees(JSON.stringify({ html: evil[0] }));
	await a1.page.locator("#events summary").first().click();
	const a2 = await world.admin(1, dealer, "a2");
	await a2.marks(group, /muted by <b onclick/);
	await a2.select(group);
	await a2.says(/a1<\/b> has the chat/);
	await world.countAll(dealer, group, { admins: [a1], customers: [customer] });
	for (const { page } of [a1, a2, customer]) {
		const made = await page.evaluate(() => {
			const roots = [document, document.getElementById("telle-chat")?.shadowRoot].filter(Boolean);
			return roots.flatMap((r) => [...r.querySelectorAll("img, svg, b[onclick], [onfocus], script:not([src])")]).map((e) => e.outerHTML);
		});
		assert.deepEqual(made, []);
	}
	await world.picture("harmless");
}

/** More than one page of history, in the order of the stream. */
async function aLongConversation(world) {
	const [dealer, group] = ["long", "g1"];
	const customer = await world.customer(2, dealer, group);
	await customer.say("Tell me everything.");
	await customer.tells(/^$/);
	for (let i = 1; i <= 120; i++) await world.bot(dealer, group, `fact ${i}`);
	await customer.sees("fact 120");
	const a1 = await world.admin(0, dealer, "a1");
	await a1.select(group);
	await a1.sees("fact 120");
	await until("a page of it only", async () => !(await a1.lines()).includes("fact 1"));
	for (const earliest of ["fact 40", "fact 1"]) {
		await a1.button("Load older").click();
		await a1.sees(earliest);
	}
	await a1.sees("Tell me everything.");
	await world.countAll(dealer, group, { admins: [a1], customers: [customer] });
	assert.equal(await a1.button("Load older").isVisible(), false);

	await customer.page.reload();
	await customer.opener.click();
	await customer.sees("fact 120");
	for (const earliest of ["fact 40", "fact 1"]) {
		await customer.panel.getByRole("button", { name: "Earlier messages" }).click();
		await customer.sees(earliest);
	}
	await world.countAll(dealer, group, { customers: [customer] });

	// Many chats: the search finds, and does not lose what is selected.
	for (let i = 10; i < 30; i++) await world.bot(dealer, `other-${i}`, "hi");
	await a1.page.getByRole("combobox", { name: "Which chats" }).selectOption("all");
	await becomes("all chats", () => a1.list.locator(".chat").count(), 21);
	await a1.page.getByRole("searchbox", { name: "Search chats" }).fill("OTHER-17");
	await becomes("the one that was looked for", () => a1.names(), ["other-17"]);
	await a1.page.getByRole("searchbox", { name: "Search chats" }).fill("nobody");
	await becomes("nothing to be found", () => a1.page.locator("#list-note").textContent(), "No chat matches.");

	// The latest is first, whatever the browser takes for the time.
	await a1.page.getByRole("searchbox", { name: "Search chats" }).fill("other-1");
	await a1.page.clock.setFixedTime("2001-01-01T00:00:00Z");
	for (const group of ["other-13", "other-11"]) await world.bot(dealer, group, "hi again");
	await becomes("what came last to be first", async () => (await a1.names()).slice(0, 3), ["other-11", "other-13", "other-19"]);
}

/** Of all chats ever seen, the page keeps what was said in those that were opened latest. */
async function manyChats(world) {
	const page = await world.open("a1", `${world.routers[0]}/`);
	const kept = await page.evaluate(async () => {
		const { Desk } = await import("/console/desk.js");
		const desk = new Desk({ dealers: ["d"], adminId: "a1" }, () => {});
		const say = (groupId, seq) => desk.take({ event: "CHAT_MESSAGE", data: { dealerId: "d", groupId, user: "bot", message: "hi" }, seq });
		for (let i = 0; i < 50; i++) desk.open("d", `g${i}`);
		for (let i = 0; i < 60; i++) say(`g${i}`, i + 1);
		desk.open("d", "g0");
		desk.open("d", "new");
		desk.close();
		return ["g0", "g1", "g2", "g49", "g50"].filter((g) => desk.conversation("d", g).events.size > 0).concat(String(desk.opened.size));
	});
	assert.deepEqual(kept, ["g0", "g2", "g49", "50"]);
}

/** Two admins after one another, in one window. */
async function theNextAdmin(world) {
	const [dealer, group] = ["alpha", "g-alpha"];
	let g;
	const a1 = await world.admin(0, dealer, "a1", { prepare: async (page) => { g = await gate(page); } });
	const customer = await world.customer(2, dealer, group);
	await customer.say("for alpha only");
	await a1.select(group);
	await a1.sees("for alpha only");
	await until("the event", async () => await a1.page.locator("#events > li").count() > 0);
	await a1.page.getByRole("checkbox", { name: "This chat only" }).check();
	await a1.button("Pause").click();
	await a1.page.getByRole("searchbox", { name: "Search chats" }).fill("alpha");
	await a1.button("System message").click();
	await a1.page.locator("#system-text").fill("to alpha");
	await a1.page.keyboard.press("Escape");

	// A reply that the router never gets, and one that is not finished.
	g.deaf = true;
	await a1.reply("unsent by alpha");
	await a1.sees("unsent by alpha");
	await a1.draft.fill("half of alpha");
	await world.leave(a1.page, true);
	g.end(4401, "the token has expired");
	await becomes("the console to say why", () => a1.page.locator("#sign-in-error").textContent(), "the token has expired");
	g.open();
	assert.doesNotMatch(await a1.everything(), /alpha/);

	// Nobody else sees it: no other admin, and nobody of another dealer.
	await a1.signIn(dealer, "a2");
	await a1.select(group);
	await a1.sees("for alpha only");
	assert.equal(await a1.draft.inputValue(), "");
	assert.doesNotMatch(await a1.everything(), /unsent|half of/);
	await a1.button("Close chat").click();
	await a1.says(/closed/);
	await a1.button("Sign out").click();
	await a1.signIn("beta & gamma", "a1");
	await becomes("the way to the widget", () => a1.page.getByRole("link", { name: "the widget" }).getAttribute("href"), "/widget?dealer=beta%20%26%20gamma");
	assert.doesNotMatch(await a1.everything(), /alpha|a2 /);
	assert.equal(await a1.button("Pause").getAttribute("aria-pressed"), "false");
	await world.bot("beta & gamma", "g1", "hello");
	await becomes("their own event", () => a1.page.locator("#events .of").allTextContents(), ["beta & gamma / g1"]);
	await a1.button("Sign out").click();

	// Who has written it may send it, though the chat is closed, and not in a list that is late.
	g.late = true;
	await a1.signIn(dealer, "a1");
	await becomes("the console to say that there may be chats", () => a1.page.locator("#list-note").textContent(), "Loading …");
	assert.equal(await a1.page.locator("#no-chats").isVisible(), false);
	await until("the list to be asked for", async () => g.held.length > 0);
	g.open();
	await a1.marks(group, /a reply was not sent/);
	assert.equal(await a1.page.locator("#list-note").textContent(), "");
	await a1.select(group);
	await becomes("what was not finished", () => a1.draft.inputValue(), "half of alpha");
	await a1.button("Send again").click();
	await customer.sees("unsent by alpha");
	await becomes("nothing to be on its way", () => a1.page.locator("#lines .fate").count(), 0);
	await a1.marks(group, /^g-alpha, online$/);
	const stored = (await world.ask("stored", dealer, group)).filter(({ data }) => data.message === "unsent by alpha");
	const [first] = g.sent.filter(({ data }) => data.message === "unsent by alpha");
	assert.deepEqual(stored.map(({ data }) => data.messageId), [first.data.messageId]);
	await world.leave(a1.page, true); // for what is not finished
	await a1.draft.fill("");
	await world.leave(a1.page, false);
}

/** That a chat was read is no activity: it stays where it is, also for who comes later. */
async function theOrderOfChats(world) {
	const dealer = "order";
	for (const group of ["g1", "g2", "g3"]) await world.bot(dealer, group, "hello", "customer");
	const a1 = await world.admin(0, dealer, "a1");
	const inOrder = (of) => becomes("the chats to be in order", () => of.names(), ["g3", "g2", "g1"]);
	await inOrder(a1);
	await a1.select("g1");
	await a1.marks("g1", /^g1, offline$/);
	await inOrder(a1);
	await inOrder(await world.admin(0, dealer, "a2"));
}

export const scenarios = {
	"the order of chats": theOrderOfChats,
	"the next admin": theNextAdmin,
	"a customer and two admins": aCustomerAndTwoAdmins,
	"one of two has the chat": oneOfTwoHasTheChat,
	"what is taken away": whatIsTakenAway,
	"many chats": manyChats,
	"markup is text": markupIsText,
	"a long conversation": aLongConversation,
};
