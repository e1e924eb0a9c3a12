// A real router, as a process: LIVE_ROUTER is the program, LIVE_NATS where NATS is. test/e2e of the router's repository sets
// both, and runs these tests.
import assert from "node:assert/strict";
import {spawn} from "node:child_process";
import {once} from "node:events";
import {createInterface} from "node:readline";

import WebSocket from "ws";

import {connect} from "../../telle.js";

const {LIVE_ROUTER: program, LIVE_NATS: nats} = process.env;

export class Router {
	#flags;
	#process;
	#output = "";
	listen = "127.0.0.1:0";

	constructor(...flags) {
		assert.ok(program && nats, "LIVE_ROUTER and LIVE_NATS say what to test");
		this.#flags = flags;
	}

	static async start(t, ...flags) {
		const router = new Router(...flags);
		t.after(() => router.kill());
		await router.start();
		return router;
	}

	/** Starts it, or starts it again in its place, and returns when it is ready. */
	async start() {
		this.#process = spawn(program, ["--nats-url", nats, "--listen", this.listen, "--internal", "127.0.0.1:0", "--drain-time", "0s", ...this.#flags]);
		this.#process.stderr.on("data", (text) => { this.#output += text; });
		for await (const line of createInterface({input: this.#process.stdout})) {
			const {msg, public: address, internal} = JSON.parse(line);
			if (msg === "serving") {
				this.listen = address;
				return this.#ready(internal);
			}
		}
		assert.fail(`the router ended before it served: ${this.#output}`);
	}

	async #ready(internal) {
		this.#process.stdout.resume();
		while ((await fetch(`http://${internal}/readyz`)).status !== 200) {
			await new Promise((resolve) => setTimeout(resolve, 5));
		}
	}

	get url() {
		return `http://${this.listen}`;
	}

	/** Ends it, at once or as an operator would. */
	async kill(signal = "SIGKILL") {
		if (this.#process.exitCode === null && this.#process.signalCode === null) {
			const exit = once(this.#process, "exit");
			this.#process.kill(signal);
			await exit;
		}
		assert.doesNotMatch(this.#output, /DATA RACE/);
	}
}

/** A client that ends with the test. */
export function open(t, router, options) {
	const chat = connect({url: router.url, WebSocket, backoff: {first: 50, most: 500}, ...options});
	t.after(() => chat.close());
	return chat;
}

/** Connects one that keeps what it hears: messages, and when it was recovered or lost. */
export async function client(t, router, options) {
	const chat = open(t, router, options);
	chat.heard = [];
	chat.recoveries = [];
	chat.offline = [];
	for (const channel of ["CHAT_MESSAGE", "customer_message"]) chat.on(channel, (data) => chat.heard.push(data.message));
	chat.on("recovered", (n) => chat.recoveries.push(n));
	chat.on("lost", () => chat.recoveries.push("lost"));
	chat.on("state", (state, why) => { if (state === "offline") chat.offline.push(why); });
	await next(chat, "ready");
	return chat;
}

/** The next event of that name, if it is the one. */
export function next(chat, event, isIt = () => true) {
	return new Promise((resolve) => {
		const handler = (...args) => {
			if (isIt(...args)) {
				chat.off(event, handler);
				resolve(args[0]);
			}
		};
		chat.on(event, handler);
	});
}

/** Waits until it has heard so many messages. */
export async function heard(chat, n) {
	while (chat.heard.length < n) await next(chat, "event");
	return chat.heard;
}

export const numbers = (n) => Array.from({length: n}, (_, i) => i);
