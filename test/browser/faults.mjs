// What goes wrong while people talk.

import assert from "node:assert/strict";
import { becomes, until } from "./kit.mjs";

/** A router dies while an admin types, another one while a customer does. Nobody loses or doubles anything. */
async function aRouterIsKilled(world) {
	const [dealer, group] = ["killed", "g1"];
	const a1 = await world.admin(0, dealer, "a1");
	const a2 = await world.admin(1, dealer, "a2");
	const customer = await world.customer(2, dealer, group);
	await customer.say("before");
	await a1.select(group);
	await a1.sees("before");

	await a1.draft.pressSequentially("half a se");
	const readOut = await listen(a1.page);
	await world.ask("kill", 0);
	await a1.health("offline");
	await until("the console to say when it tries again", async () => /^next try in \d+ s$/.test(await a1.page.locator("#next-try").textContent()));
	assert.equal(await a1.draft.inputValue(), "half a se");
	await a1.draft.pressSequentially("ntence");
	for (const i of [1, 2, 3]) await customer.say(`meanwhile ${i}`);
	await a2.marks(group, /3 unread messages/);
	await a1.draft.press("Enter");
	await a1.sees("half a sentence");
	assert.equal(await a1.page.locator("#lines .fate").textContent(), "sending …");
	await world.picture("router gone");

	await world.ask("start", 0);
	await a1.health("live");
	await until("the console to say what was recovered", async () => {
		const text = await a1.page.locator("#recovered").textContent();
		return /^recovered [1-9]\d* events?/.test(text) || text;
	});
	await customer.sees("half a sentence");
	await becomes("nothing to be on its way", () => a1.page.locator("#lines .fate").count(), 0);
	assert.ok((await readOut()).includes("Router gone"));
	assert.deepEqual((await readOut()).filter((text) => /\d s\b/.test(text)), [], "seconds are read out");

	await world.ask("kill", 2);
	await customer.tells(/No connection/);
	await customer.say("are you there?");
	await a1.reply("I am.");
	await world.ask("start", 2);
	await customer.tells(/^$/);
	await customer.sees("I am.");
	await a1.sees("are you there?");
	await a2.select(group);
	await a2.sees("are you there?");
	await world.countAll(dealer, group, { admins: [a1, a2], customers: [customer] });
}

/** Returns what returns all that a screen reader has read out since. */
async function listen(page) {
	await page.evaluate(() => {
		window.readOut = [];
		const changed = (changes) => window.readOut.push(...changes.map(({ target }) => target.textContent));
		for (const region of document.querySelectorAll("[role=status], [role=alert], [aria-live=polite]")) {
			new MutationObserver(changed).observe(region, { childList: true, characterData: true, subtree: true });
		}
	});
	return () => page.evaluate(() => window.readOut);
}

/** NATS goes and comes back: windows say so, stay, and have everything once. */
async function natsIsStopped(world) {
	const [dealer, group] = ["degraded", "g1"];
	const a1 = await world.admin(0, dealer, "a1");
	const customer = await world.customer(2, dealer, group);
	await customer.say("before");
	await a1.select(group);
	await a1.sees("before");

	await world.ask("stopNATS");
	await a1.health("degraded");
	await customer.tells(/It takes longer/);
	await customer.say("meanwhile");
	await a1.reply("I wait.");
	await a1.sees("I wait.");
	await world.picture("degraded");
	await world.ask("startNATS");

	await a1.health("live");
	await customer.tells(/^$/);
	await customer.sees("I wait.");
	await a1.sees("meanwhile");
	await customer.say("after");
	await a1.sees("after");
	await becomes("nothing to be on its way", () => a1.page.locator("#lines .fate").count(), 0);
	await world.countAll(dealer, group, { admins: [a1], customers: [customer] });
}

/** What was missed is not held any more: the console says what there is, and does not show a hole. */
async function whatWasMissedIsGone(world) {
	const [dealer, group] = ["gone", "g1"];
	const a1 = await world.admin(0, dealer, "a1");
	const customer = await world.customer(2, dealer, group);
	await customer.say("long ago");
	await a1.select(group);
	await a1.sees("long ago");
	await world.bot(dealer, "g2", "hello", "customer");
	for (const each of ["g2", group]) {
		await a1.select(each);
		await a1.button("Take over").click();
		await a1.says(/you have the chat/);
	}
	await world.ask("kill", 0);
	await a1.health("offline");
	await customer.say("nobody will know");
	await customer.sees("nobody will know");
	await customer.say("the last one");
	await until("it to be stored", async () => (await world.ask("stored", dealer, group)).some(({ data }) => data.message === "the last one"));
	await world.ask("purge");
	await world.publish({ type: "UNMUTE_BOT", dealerId: dealer, groupId: "g2", adminId: "a2", muted: false });
	await until("it to be stored", async () => (await world.ask("stored", dealer, "g2")).some(({ data }) => data.muted === false));
	await world.ask("start", 0);
	await a1.health("live");
	await becomes("what there is", () => a1.page.locator("#lines > li.line .text").allTextContents(), ["the last one"]);
	await a1.says(/you have the chat/); // the state is kept apart
	await becomes("the loss of the other one to be told", () => a1.notice.textContent(), "You do not have g2 any more");
	await customer.say("and on");
	await a1.sees("and on");
}

export const scenarios = {
	"what was missed is gone": whatWasMissedIsGone,
	"a router is killed": aRouterIsKilled,
	"NATS is stopped": natsIsStopped,
};
