// Takes the pictures that the documents show.

import { join } from "node:path";

async function pictures(world) {
	const [dealer, into] = ["d1", process.env.PICTURES];
	const customer = await world.customer(2, dealer, "g1", { viewport: { width: 900, height: 620 } });
	await customer.say("Good morning. Is the van still there?");
	await world.bot(dealer, "g1", "Good morning! It is. Would you like to drive it?");
	await customer.sees("Would you like to drive it?");
	for (const [group, text] of [["g2", "What does the small one cost?"], ["g3", "Are you open on Saturday?"]]) {
		const other = await world.customer(2, dealer, group);
		await other.say(text);
		await other.sees("sent");
	}
	const a1 = await world.admin(0, dealer, "a1");
	const a2 = await world.admin(1, dealer, "a2");
	await a2.select("g3");
	await a2.button("Take over").click();
	await a2.says(/you have the chat/);
	await customer.say("Yes, this afternoon. Could I talk to a person?");
	await a1.select("g1");
	await a1.sees("Yes, this afternoon. Could I talk to a person?");
	await a1.button("Take over").click();
	await a1.says(/you have the chat/);
	await a1.reply("Of course: I am here. How about three o'clock?");
	await customer.sees("three o'clock");
	await customer.say("Three is fine.");
	await a1.sees("Three is fine.");
	await a1.page.locator("#events summary").nth(1).click();
	for (const colorScheme of ["light", "dark"]) {
		await a1.page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
		await a1.page.screenshot({ path: join(into, `console-${colorScheme}.png`) });
	}
	await customer.page.emulateMedia({ reducedMotion: "reduce" });
	await customer.page.screenshot({ path: join(into, "widget.png") });
}

export const scenarios = { pictures };
