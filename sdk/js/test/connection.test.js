import assert from "node:assert/strict";
import {test} from "node:test";

import {connect, pause} from "../telle.js";
import {chatMessage, play, says, setClock, settled, tick} from "./fake.js";

test("the address is made from what a page knows", async (t) => {
	for (const [url, want] of [
		["http://a.test", "ws://a.test/ws"],
		["https://a.test/", "wss://a.test/ws"],
		["wss://a.test/chat/ws", "wss://a.test/chat/ws"],
		["https://a.test/?x=1", "wss://a.test/ws?x=1"],
	]) {
		await t.test(url, async (t) => {
			const {sockets} = await play(t, {url});
			assert.equal(sockets[0].url, want);
		});
	}
	assert.throws(() => connect({url: "ftp://a.test", WebSocket: class {}}), /url must begin with/);
	assert.throws(() => connect({url: "http://a.test", WebSocket: undefined}), /WebSocket/);
});

test("who it is goes into the query", async (t) => {
	const {sockets} = await play(t, {token: "t", role: "admin", dealerId: ["d1", 2], groupId: ["g1", "g2"], adminId: 0});
	assert.equal(sockets[0].query.toString(), "token=t&role=admin&dealerId=d1&dealerId=2&adminId=0&groupId=g1&groupId=g2");
});

test("a client that comes back asks for what came after the greatest sequence it has had", async (t) => {
	const {sockets, again} = await play(t);
	assert.equal(sockets[0].query.get("since"), null);
	sockets[0].ready({seq: 100});
	sockets[0].ends();
	assert.equal((await again()).query.get("since"), "100");
	sockets[1].ready({seq: 100, recovered: true});
	sockets[1].says(chatMessage("a", 107), chatMessage("late, of another chat", 103, {groupId: "g2"}));
	sockets[1].ends();
	assert.equal((await again()).query.get("since"), "107");
});

test("an event comes once, and late ones of other chats are none that came", async (t) => {
	const {sockets, told, again} = await play(t);
	sockets[0].ready();
	sockets[0].says(chatMessage("a", 107), chatMessage("b", 103, {groupId: "g2"}), chatMessage("a", 107), chatMessage("old", 106));
	sockets[0].ends();
	const back = await again();
	back.ready({seq: 107, recovered: true});
	back.says(chatMessage("b", 103, {groupId: "g2"}), chatMessage("c", 108));
	assert.deepEqual(told("event").map(({data}) => data.message), ["a", "b", "c"]);
});

test("recovered counts what came until live", async (t) => {
	const {sockets, told, again} = await play(t);
	sockets[0].ready();
	sockets[0].ends();
	let back = await again();
	back.ready({recovered: true});
	back.says(chatMessage("a", 101));
	back.ends(); // before all had come
	back = await again();
	back.ready({recovered: true, seq: 101});
	back.says(chatMessage("b", 102), chatMessage("c", 103));
	assert.deepEqual(told("recovered"), []);
	back.says({event: "live"}, chatMessage("new", 104));
	assert.deepEqual(told("recovered"), [3]);
	back.says({event: "degraded"}, {event: "live"}); // of the same connection
	assert.deepEqual(told("recovered"), [3]);
});

test("what may be missing is told, and states of before do not count", async (t) => {
	const {chat, sockets, told, again} = await play(t);
	sockets[0].ready();
	sockets[0].says(chatMessage("a", 107));
	assert.equal(chat.chats.size, 1);
	sockets[0].ends();
	const back = await again();
	back.ready({recovered: false, seq: 50, oldest: 40}); // another stream
	assert.deepEqual(told("lost"), [{session: "s", seq: 50, recovered: false, oldest: 40}]);
	assert.equal(chat.chats.size, 0);
	back.says(chatMessage("b", 51));
	assert.deepEqual(told("event").map(({seq}) => seq), [107, 51]);
	back.ends();
	assert.equal((await again()).query.get("since"), "51");
});

test("a router that drains says when to come back", async (t) => {
	const {sockets, told} = await play(t);
	sockets[0].ready();
	sockets[0].ends(1012, "drain; reconnect in 734 ms");
	assert.deepEqual(told("state").at(-1), ["offline", {code: 1012, reason: "drain; reconnect in 734 ms", retryIn: 734}]);
	tick(733);
	await settled();
	assert.equal(sockets.length, 1);
	tick(1);
	await settled();
	assert.equal(sockets.length, 2);
});

test("pauses are spread, grow and have a bound", () => {
	const backoff = {first: 500, most: 30_000};
	const none = {code: 1006, reason: ""};
	const half = () => 0.5;
	assert.deepEqual([0, 1, 2, 3, 6, 100].map((n) => pause(none, n, backoff, half)), [250, 500, 1000, 2000, 15_000, 15_000]);
	assert.equal(pause(none, 100, backoff, () => 0), 0);
	for (const [reason, attempts, want] of [
		["drain; reconnect in 100 ms", 0, 100],
		["drain; reconnect in 999 ms", 3, 999],
		["drain; reconnect in 45000 ms", 0, 45_000],
		["drain; reconnect in 99999999 ms", 0, 60_000],
		["drain", 0, 250],
	]) {
		assert.equal(pause({code: 1012, reason}, attempts, backoff, half), want, reason);
	}
	assert.equal(pause({code: 1006, reason: "in 7 ms"}, 0, backoff, half), 250);
	assert.equal(pause({code: 4429, reason: ""}, 0, backoff, () => 0), 15_000);
	assert.equal(pause({code: 4429, reason: ""}, 0, backoff, () => 1), 30_000);
});

test("attempts that fail one after the other are further and further apart", async (t) => {
	t.mock.method(Math, "random", () => 1);
	const {sockets, told, again} = await play(t);
	for (let i = 0; i < 3; i++) {
		sockets.at(-1).ends();
		await again();
	}
	sockets.at(-1).ready();
	sockets.at(-1).ends(); // did not last
	await again();
	sockets.at(-1).ready();
	tick(5_000);
	sockets.at(-1).ends();
	assert.deepEqual(told("state").filter(([state]) => state === "offline").map(([, {retryIn}]) => retryIn), [500, 1000, 2000, 4000, 500]);
});

test("a connection that does not become ready is given up", async (t) => {
	const {sockets, told} = await play(t);
	tick(15_000);
	assert.ok(sockets[0].closed);
	assert.equal(told("state").at(-1)[0], "offline");
});

test("a token that is refused is exchanged", async (t) => {
	let tokens = 0;
	const {sockets, told, again} = await play(t, {token: async () => `t${++tokens}`});
	assert.equal(sockets[0].query.get("token"), "t1");
	sockets[0].ready();
	sockets[0].ends(4401, "the token has expired");
	assert.equal(told("state").at(-1)[0], "offline");
	assert.equal((await again()).query.get("token"), "t2");
	assert.equal(sockets[1].query.get("since"), "100");
	assert.deepEqual(told("error"), []);
});

test("a token that cannot be had is asked for again", async (t) => {
	let tokens = 0;
	const {sockets, told, again} = await play(t, {token: () => {
		if (++tokens === 1) throw new Error("the server of tokens is away");
		return "t";
	}});
	assert.equal(sockets.length, 0);
	assert.equal(told("state").at(-1)[0], "offline");
	assert.equal((await again()).query.get("token"), "t");
});

test("a new token is shown before the old one ends", async (t) => {
	let tokens = 0;
	const {chat, sockets} = await play(t, {token: () => `t${++tokens}`});
	sockets[0].ready();
	const sent = chat.send("customer_message", says("under way"), {timeout: 60_000});
	sockets[0].says({event: "expiring", data: {seconds: 60}});
	tick(30_000);
	await settled();
	assert.ok(sockets[0].closed);
	assert.equal(sockets[1].query.toString(), "token=t2&since=100");
	sockets[1].ready({recovered: true});
	assert.deepEqual(sockets[1].raw, sockets[0].raw);
	sockets[1].acks();
	await sent;
});

test("without a new token the connection stays until the old one ends", async (t) => {
	const tokens = ["t1", "t1", null, "t2"];
	const {sockets, told, again} = await play(t, {token() {
		const token = tokens.shift();
		if (!token) throw new Error("the server of tokens is away");
		return token;
	}});
	sockets[0].ready();
	for (let i = 0; i < 2; i++) {
		sockets[0].says({event: "expiring", data: {seconds: 60}});
		tick(30_000);
		await settled();
		assert.equal(told("state").at(-1)[0], "live");
	}
	assert.deepEqual(told("error").map(({code}) => code), ["unauthorized"]);
	sockets[0].ends(4401);
	assert.equal((await again()).query.get("token"), "t2");
});

test("what ends it for good", async (t) => {
	for (const [code, options, want] of [
		[4400, {}, "invalid_event"],
		[4401, {token: "t"}, "unauthorized"],
		[4401, {}, "unauthorized"],
		[4403, {token: () => "t"}, "forbidden"],
	]) {
		await t.test(`${code} ${typeof options.token}`, async (t) => {
			const {chat, sockets, told, again} = await play(t, options);
			sockets[0].ready();
			const sent = assert.rejects(chat.send("customer_message", says("x")), {code: "closed"});
			sockets[0].ends(code, "why");
			await sent;
			assert.equal(chat.state, "closed");
			assert.deepEqual(told("error").map(({code, message}) => [code, message]), [[want, "why"]]);
			await again();
			assert.equal(sockets.length, 1);
			await assert.rejects(chat.send("customer_message", says("y")), {code: "closed"});
		});
	}
});

test("what does not end it", async (t) => {
	for (const code of [1000, 1001, 1006, 1011, 1013, 4408, 4409, 4410, 4429, 4499]) {
		await t.test(String(code), async (t) => {
			const {sockets, again} = await play(t);
			sockets[0].ready();
			sockets[0].ends(code);
			assert.equal((await again()).query.get("since"), "100");
		});
	}
});

test("close ends it, whatever it is about to do", async (t) => {
	for (const [when, until] of Object.entries({
		connecting() {},
		live: ({sockets}) => sockets[0].ready(),
		offline: ({sockets}) => sockets[0].ends(),
	})) {
		await t.test(when, async (t) => {
			const play1 = await play(t);
			until(play1);
			assert.equal(play1.chat.state, when);
			play1.chat.close();
			assert.deepEqual(play1.told("state").at(-1), ["closed", {code: 1000, reason: ""}]);
			await play1.again();
			assert.equal(play1.sockets.length, 1);
			assert.ok(when === "offline" || play1.sockets[0].closed);
		});
	}
});

/** A browser's window, as far as the client looks at it. `tells` lets something happen there. */
function browser(t) {
	const listeners = {};
	const target = {
		addEventListener(event, f) { listeners[event] = f; },
		removeEventListener(event, f) { if (listeners[event] === f) delete listeners[event]; },
	};
	Object.assign(globalThis, target);
	globalThis.document = {hidden: false, ...target};
	t.after(() => { for (const name of [...Object.keys(target), "document"]) delete globalThis[name]; });
	return {listeners, tells: (event) => listeners[event]({type: event})};
}

test("a network that is back is tried at once, and so for somebody who looks", async (t) => {
	for (const event of ["online", "pageshow", "visibilitychange"]) {
		await t.test(event, async (t) => {
			const {listeners, tells} = browser(t);
			t.mock.method(Math, "random", () => 1);
			const {chat, sockets} = await play(t, {backoff: {first: 500, most: 500_000}});
			for (let i = 0; i < 8; i++) {
				sockets.at(-1).ends();
				tick(500 * 2 ** i);
				await settled();
			}
			sockets.at(-1).ends();
			const before = sockets.length;
			tells(event);
			tick(500);
			await settled();
			assert.equal(sockets.length, before + 1);
			tells(event); // it is at it already
			tick(500);
			await settled();
			assert.equal(sockets.length, before + 1);
			chat.close();
			assert.deepEqual(listeners, {});
		});
	}
});

test("a page that nobody looks at waits", async (t) => {
	const {tells} = browser(t);
	t.mock.method(Math, "random", () => 1);
	const {sockets} = await play(t);
	sockets[0].ends();
	globalThis.document.hidden = true;
	tick(400);
	tells("visibilitychange");
	tick(100); // the 500 ms of the first pause, and no more
	await settled();
	assert.equal(sockets.length, 2);
});

test("a router that says nothing is asked whether it is there, and given up if it does not answer", async (t) => {
	t.mock.method(Math, "random", () => 0);
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	tick(29_999);
	assert.equal(sockets[0].pings.length, 0);
	tick(1);
	assert.equal(sockets[0].pings.length, 1);
	tick(10_000);
	assert.equal(chat.state, "live"); // it has answered
	sockets[0].says(chatMessage("hi", 101));
	sockets[0].there = false;
	tick(29_999);
	assert.equal(sockets[0].pings.length, 1);
	tick(1);
	assert.equal(sockets[0].pings.length, 2);
	tick(9_999);
	assert.equal(chat.state, "live");
	tick(1);
	assert.equal(chat.state, "offline");
	assert.ok(sockets[0].closed);
});

test("clients ask at times of their own, and a clock that is set back changes nothing", async (t) => {
	t.mock.method(Math, "random", () => 0.99);
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	sockets[0].there = false;
	setClock(1_700_000_000_000);
	tick(25_049);
	assert.equal(sockets[0].pings.length, 0);
	tick(1);
	assert.equal(sockets[0].pings.length, 1);
	tick(10_000);
	assert.equal(chat.state, "offline");
});

test("a question whether the router is there takes no place of what waits", async (t) => {
	const {chat, sockets} = await play(t, {queue: 1});
	sockets[0].ready();
	sockets[0].there = false;
	tick(30_000);
	assert.equal(sockets[0].pings.length, 1);
	sockets[0].ends();
	let refused;
	chat.send("customer_message", says("waits")).catch(({code}) => { refused = code; });
	await settled();
	assert.equal(refused, undefined);
});

test("what comes instead of an answer shows that the router is there", async (t) => {
	const {chat, sockets, told} = await play(t);
	sockets[0].there = false;
	sockets[0].ready();
	const refusal = (id) => ({event: "error", id, error: {code: "invalid_event", message: "event is unknown"}}); // of a router of before
	for (const frame of [() => chatMessage("hi", 101), () => ({event: "degraded"}), () => refusal(sockets[0].pings.at(-1).id)]) {
		const asked = sockets[0].pings.length;
		while (sockets[0].pings.length === asked) tick(1_000);
		tick(9_000);
		sockets[0].says(frame());
		tick(1_000); // the time is over
	}
	assert.deepEqual(told("error"), []);
	assert.equal(chat.state, "degraded");
	assert.equal(sockets.length, 1);
});

test("who comes back to the page finds out at once that the connection is dead", async (t) => {
	for (const event of ["online", "pageshow", "visibilitychange"]) {
		await t.test(event, async (t) => {
			const {tells} = browser(t);
			const {chat, sockets} = await play(t);
			sockets[0].ready();
			sockets[0].there = false;
			tells(event);
			tells(event); // one question is enough
			assert.equal(sockets[0].pings.length, 1);
			tick(10_000);
			assert.equal(chat.state, "offline");
		});
	}
});

test("it is not asked while something else is to be answered, or behind a queue that is full", async (t) => {
	const {tells} = browser(t);
	const {chat, sockets} = await play(t, {queue: 1});
	sockets[0].ready();
	const page = chat.history({groupId: "g1"});
	tells("online");
	assert.equal(sockets[0].pings.length, 0);
	sockets[0].says({event: "ack", id: sockets[0].sent[0].id, data: {events: []}}, {event: "degraded"});
	await page;
	chat.send("customer_message", says("waits")).catch(() => {});
	tells("online");
	assert.equal(sockets[0].pings.length, 1);
});

test("a frame that is no JSON breaks the connection, not the page", async (t) => {
	const {sockets, told} = await play(t);
	sockets[0].ready();
	sockets[0].says("{");
	assert.equal(told("state").at(-1)[0], "offline");
});
