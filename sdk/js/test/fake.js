// A router that a test plays by hand: it answers pings, else nothing happens but what the test says, and timers are the test's.
import FakeTimers from "@sinonjs/fake-timers";

import {connect} from "../telle.js";

let clock;

/** Lets time pass. */
export const tick = (ms) => clock.tick(ms);

/** Sets the clock: no time passes. */
export const setClock = (ms) => clock.setSystemTime(ms);

/** Lets what waits for promises run. */
export const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Connects a client to a faked router. `sockets` are its connections, `heard` what it has emitted. */
export async function play(t, options = {}) {
	clock = FakeTimers.install({now: 1_800_000_000_000, toFake: ["performance", "setTimeout", "clearTimeout", "Date"]});
	t.after(() => clock.uninstall());
	const sockets = [];
	class Socket {
		sent = []; // but pings
		raw = [];
		pings = [];
		there = true; // it answers them

		constructor(url) {
			this.query = new URL(url).searchParams;
			this.url = url;
			sockets.push(this);
		}

		send(text) {
			const frame = JSON.parse(text);
			if (frame.event === "ping") {
				this.pings.push(frame);
				if (this.there) this.says({event: "ack", id: frame.id});
				return;
			}
			this.raw.push(text);
			this.sent.push(frame);
		}

		close() {
			this.closed = true;
		}

		/** The router says. */
		says(...frames) {
			for (const frame of frames) this.onmessage({data: typeof frame === "string" ? frame : JSON.stringify(frame)});
		}

		ready(data) {
			this.says({event: "ready", data: {session: "s", seq: 100, ...data}});
		}

		/** The connection ends. */
		ends(code = 1006, reason = "") {
			this.onclose({code, reason});
		}

		/** Acknowledges all that was sent. */
		acks(seq = 200) {
			for (const {id} of this.sent) this.says({event: "ack", id, seq: seq++});
		}
	}
	const chat = connect({url: "http://router.test", WebSocket: Socket, ...options});
	t.after(() => chat.close());
	const heard = [];
	for (const event of ["state", "ready", "recovered", "lost", "event", "states", "chats", "expiring", "error"]) {
		chat.on(event, (...args) => heard.push([event, ...args]));
	}
	await settled();
	return {
		chat, sockets, heard,
		/** What was emitted of that name. */
		told: (event) => heard.filter(([name]) => name === event).map(([, ...args]) => args.length > 1 ? args : args[0]),
		/** The connection that is, once its time has come. */
		async again() {
			tick(60_000);
			await settled();
			return sockets.at(-1);
		},
	};
}

export const chatMessage = (message, seq, more) => ({
	event: "CHAT_MESSAGE", seq, data: {type: "CHAT_MSG", dealerId: "d1", groupId: "g1", user: "bot", message, ...more},
});

export const says = (message, more) => ({type: "UPDATE_MSG", dealerId: "d1", groupId: "g1", user: "customer", message, ...more});
