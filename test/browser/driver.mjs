// Plays scenarios in Chromium. It is told which by lines of JSON, {"play": name, "routers": [URL…]}, and answers each with
// {"done": name, "error": …}; meanwhile it asks for what happens outside of the browser, {"ask": what, "args": […]}, and is
// answered {"answer": …}.

import { createInterface } from "node:readline";
import { chromium } from "playwright-core";
import { World } from "./kit.mjs";
import * as access from "./access.mjs";
import * as faults from "./faults.mjs";
import * as pictures from "./pictures.mjs";
import * as story from "./story.mjs";

const scenarios = { ...story.scenarios, ...access.scenarios, ...faults.scenarios, ...pictures.scenarios };

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM,
	args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-quic"],
});

const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

const waiting = []; // for answers, in the order of the questions
const ask = (what, ...args) => new Promise((resolve) => {
	waiting.push(resolve);
	say({ ask: what, args });
});

async function play(name, routers) {
	const world = new World(browser, routers, ask, name);
	try {
		await scenarios[name](world);
		world.check();
	} catch (error) {
		await world.picture("failed");
		return `${error.stack}\n${world.story()}`;
	} finally {
		await world.close();
	}
	return "";
}

for await (const line of createInterface({ input: process.stdin })) {
	const told = JSON.parse(line);
	if (told.play) play(told.play, told.routers).then((error) => say({ done: told.play, error }));
	else waiting.shift()(told.answer);
}
await browser.close();
