import assert from "node:assert/strict";
import {createHmac} from "node:crypto";
import {test} from "node:test";

import {chatKey} from "../../telle.js";
import {client, heard, next, numbers, open, Router} from "./router.js";

const none = ["--auth", "none", "--max-frame-burst", "10000"];
const secret = "a secret that is long enough to be one";

let dealers = 0;
const dealer = () => `live-${++dealers}`; // each test has its own

const customer = (dealerId) => ({role: "customer", dealerId, groupId: "g1"});
const admin = (dealerId) => ({role: "admin", dealerId, adminId: "a1"});

const says = (dealerId, message) => ["customer_message", {type: "UPDATE_MSG", dealerId, groupId: "g1", user: "customer", message}];
const answers = (dealerId, message) => ["CHAT_MESSAGE", {type: "CHAT_MSG", dealerId, groupId: "g1", adminId: "a1", user: "admin", message}];

test("a client of a router that is killed again and again misses nothing and hears nothing twice", {timeout: 60_000}, async (t) => {
	const [doomed, safe] = await Promise.all([Router.start(t, ...none), Router.start(t, ...none)]);
	const d = dealer();
	const [reader, writer] = [await client(t, doomed, customer(d)), await client(t, safe, admin(d))];
	for (let round = 0; round < 3; round++) {
		const more = (from, to) => Promise.all(numbers(to - from).map((i) => writer.send(...answers(d, from + i))));
		await more(round * 100, round * 100 + 30);
		const under = more(round * 100 + 30, round * 100 + 60);
		await doomed.kill();
		await under;
		await more(round * 100 + 60, round * 100 + 90); // while nobody is there
		await doomed.start();
		while (reader.recoveries.length <= round) await next(reader, "recovered");
		assert.ok(reader.recoveries[round] >= 30 && reader.recoveries[round] <= 90, `recovered ${reader.recoveries}`);
		await more(round * 100 + 90, round * 100 + 100);
	}
	assert.deepEqual(await heard(reader, 300), numbers(300));
	const seqOf = ({chats}) => chats.get(chatKey(d, "g1")).seq;
	while (seqOf(writer) < seqOf(reader)) await next(writer, "states"); // its last ack may come before the event
	assert.equal(seqOf(reader), seqOf(writer));
});

test("what a client says while its router dies and lives again is stored once and in order", {timeout: 60_000}, async (t) => {
	const [doomed, safe] = await Promise.all([Router.start(t, ...none), Router.start(t, ...none)]);
	const d = dealer();
	const [writer, reader] = [await client(t, doomed, {...customer(d), queue: 1000}), await client(t, safe, admin(d))];
	const sent = [];
	const say = (n) => sent.push(...numbers(n).map((i) => writer.send(...says(d, sent.length + i))));
	for (let round = 0; round < 3; round++) {
		say(10);
		const dead = doomed.kill(); // with some of these under way
		say(10);
		await dead;
		say(10);
		await doomed.start();
		await Promise.all(sent);
	}
	const seqs = (await Promise.all(sent)).map(({seq}) => seq);
	assert.deepEqual(seqs, [...seqs].sort((a, b) => a - b));
	assert.deepEqual(await heard(reader, 90), numbers(90));
	assert.deepEqual(writer.heard, []); // what it said itself
});

test("a takeover has one winner, and all who look see the same", {timeout: 60_000}, async (t) => {
	const router = await Router.start(t, ...none);
	const d = dealer();
	const widget = await client(t, router, customer(d));
	const admins = await Promise.all(["a1", "a2", "a3"].map((adminId) => client(t, router, {...admin(d), adminId})));
	await widget.send("client_join", {type: "CLIENT_JOIN", dealerId: d, groupId: "g1", user: "customer"});
	await widget.send(...says(d, "is anybody there?"));
	const taken = await Promise.allSettled(admins.map((chat, i) => chat.send("MUTE_STATE", {
		type: "MUTE_STATUS", dealerId: d, groupId: "g1", adminId: `a${i + 1}`, muted: true, ifOwner: null,
	})));
	const winners = taken.flatMap(({status}, i) => status === "fulfilled" ? `a${i + 1}` : []);
	assert.equal(winners.length, 1);
	for (const {reason} of taken) {
		if (reason) assert.deepEqual([reason.code, reason.owner], ["conflict", winners[0]]);
	}
	const [{seq}] = taken.flatMap(({value}) => value ?? []);
	const key = chatKey(d, "g1");
	for (const chat of [widget, ...admins]) {
		while (!(chat.chats.get(key)?.seq >= seq)) await next(chat, "states");
	}
	const told = await client(t, router, admin(d)); // who comes only now
	for (const {chats} of [widget, ...admins]) {
		const {adminId, muted, open} = chats.get(key);
		assert.deepEqual([adminId, muted, open], [winners[0], true, true]);
	}
	const bare = ({lastActivity, ...state}) => state; // of live events: when they came
	for (const {chats} of admins) assert.deepEqual(bare(chats.get(key)), bare(told.chats.get(key)));
});

test("history has what was said, page by page", {timeout: 60_000}, async (t) => {
	const router = await Router.start(t, ...none);
	const d = dealer();
	const writer = await client(t, router, admin(d));
	const sent = await Promise.all(numbers(25).map((i) => writer.send(...answers(d, i))));
	const late = await client(t, router, customer(d));
	const events = [];
	for (let more = true, before; more;) {
		const page = await late.history({groupId: "g1", before, limit: 10});
		events.unshift(...page.events);
		({more, before} = page);
	}
	assert.deepEqual(events.map(({event, data, seq}) => [event, data.message, seq]), sent.map(({seq}, i) => ["CHAT_MESSAGE", i, seq]));
	assert.ok(events.every(({at}) => Math.abs(new Date(at) - Date.now()) < 60_000));
	await assert.rejects(late.history({groupId: "of somebody else"}), {code: "forbidden"});
});

test("a client of a router that drains comes back when it is told to", {timeout: 60_000}, async (t) => {
	const router = await Router.start(t, ...none);
	const chat = await client(t, router, customer(dealer()));
	const offline = next(chat, "state", (state) => state === "offline");
	const ended = router.kill("SIGTERM");
	await offline;
	const {code, reason, retryIn} = chat.offline[0];
	assert.equal(code, 1012);
	assert.match(reason, new RegExp(` ${retryIn} ms`));
	assert.ok(retryIn >= 100 && retryIn < 1000, `in ${retryIn} ms`);
	await ended;
	await Promise.all([router.start(), next(chat, "ready")]);
	assert.equal(chat.state, "live");
});

/** A token that is good for some seconds. */
function token(claims, seconds) {
	const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
	const text = `${part({alg: "HS256", typ: "JWT"})}.${part({...claims, exp: Math.floor(Date.now() / 1000) + seconds})}`;
	return `${text}.${createHmac("sha256", secret).update(text).digest("base64url")}`;
}

for (const [how, flags] of Object.entries({
	"when it has ended": ["--expiry-warning", "0s"],
	"before it ends": ["--expiry-warning", "1m"],
})) {
	test(`a token is exchanged ${how}, and nothing is missed`, {timeout: 60_000}, async (t) => {
		const router = await Router.start(t, "--auth", "jwt", "--jwt-secret", secret, "--jwt-leeway", "0s", ...flags);
		const d = dealer();
		let tokens = 0;
		const chat = await client(t, router, {
			// The first one is good for the beginning, the second one for nothing.
			token: async () => token({role: "customer", dealerId: d, groupId: "g1"}, [2, -1, 3600][tokens++]),
		});
		const writer = await client(t, router, {token: token({...admin(d)}, 3600)});
		await writer.send(...answers(d, 0));
		if (chat.offline.length === 0) await next(chat, "state", (state) => state === "offline");
		await writer.send(...answers(d, 1));
		assert.deepEqual(await heard(chat, 2), [0, 1]);
		assert.equal(tokens, 3);
		assert.ok(chat.offline.every(({code}) => code === 4401), JSON.stringify(chat.offline));
	});
}

test("a token that stays bad ends it", {timeout: 60_000}, async (t) => {
	const router = await Router.start(t, "--auth", "jwt", "--jwt-secret", secret);
	const d = dealer();
	for (const [bad, code] of [
		[token(customer(d), -3600), "unauthorized"],
		[token(customer("another"), 3600), "forbidden"], // than the query names
	]) {
		const chat = open(t, router, {token: bad, dealerId: d});
		const [error] = await Promise.all([next(chat, "error"), next(chat, "state", (state) => state === "closed")]);
		assert.equal(error.code, code);
	}
});
