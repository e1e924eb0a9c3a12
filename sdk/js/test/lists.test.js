// The lists of an admin's chats, which a router may leave out of "ready".
import assert from "node:assert/strict";
import {test} from "node:test";

import {chatKey} from "../telle.js";
import {chatMessage, play, says, settled, tick} from "./fake.js";

const admin = {role: "admin", dealerId: ["d1", 2]};

const state = (groupId, seq, more) => ({dealerId: "d1", groupId, seq, muted: false, open: true, online: false, unread: 0, ...more});

const list = (dealerId, ...chats) => ({dealerId, chats, more: false});

/** The dealers whose lists a connection was asked for. */
const asked = ({sent}) => sent.filter(({event, data}) => event === "chats" && !data.groupIds).map(({data}) => data.dealerId);

/** Answers the latest question for a list. */
const answer = (socket, said) => socket.says({...said, id: socket.sent.filter(({event}) => event === "chats").at(-1).id});

const refusal = (code) => ({event: "error", error: {code, message: "m"}});

test("a list that is not in ready is asked for, one that is there is not", async (t) => {
	const {chat, sockets, told} = await play(t, admin);
	assert.equal(chat.listing.size, 0);
	sockets[0].ready({chats: [list("d1", state("g1", 90))]});
	assert.deepEqual([[...chat.listing], asked(sockets[0])], [["2"], ["2"]]);
	answer(sockets[0], {event: "ack", data: list("2", {...state("g7", 80), dealerId: "2"})});
	assert.equal(chat.listing.size, 0);
	assert.deepEqual([...chat.chats.keys()], [chatKey("d1", "g1"), chatKey("2", "g7")]);
	assert.deepEqual(told("chats").map(({dealerId}) => dealerId), ["d1", "2"]);
});

test("an empty list is one", async (t) => {
	const {chat, sockets, told} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready({chats: [list("d1")]});
	assert.deepEqual([chat.listing.size, asked(sockets[0]), told("chats")], [0, [], [list("d1")]]);
});

test("who follows all is said by the options, or else by the token", async (t) => {
	const token = (claims) => `e30.${Buffer.from(JSON.stringify(claims)).toString("base64url")}.x`;
	for (const [name, options, want] of [
		["a token", {token: token({role: "admin", dealerId: ["d1", 2]})}, ["d1", "2"]],
		["a token of one dealer, from a function", {token: async () => token({role: "admin", dealerId: "ü"})}, ["ü"]],
		["a token for some chats", {token: token({role: "admin", dealerId: "d1", groupId: ["g1"]})}, []],
		["narrower than the token", {token: token({role: "admin", dealerId: ["d1", "d2"]}), dealerId: "d2"}, ["d2"]],
		["a customer's token", {token: token({role: "customer", dealerId: "d1"})}, []],
		["no token of ours", {token: "t"}, []],
		["some chats", {role: "admin", dealerId: "d1", groupId: "g1"}, []],
		["a service", {role: "service", dealerId: "d1"}, []],
	]) {
		await t.test(name, async (t) => {
			const {sockets} = await play(t, options);
			sockets[0].ready();
			assert.deepEqual(asked(sockets[0]), want);
		});
	}
});

test("a list that cannot be had now is asked for again, less and less often", async (t) => {
	t.mock.method(Math, "random", () => 1);
	const {chat, sockets, told} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready();
	for (const [i, wait] of [500, 1000, 2000].entries()) {
		answer(sockets[0], refusal("unavailable"));
		await settled();
		tick(wait - 1);
		assert.equal(asked(sockets[0]).length, i + 1);
		tick(1);
		assert.equal(asked(sockets[0]).length, i + 2);
	}
	assert.deepEqual([...chat.listing], ["d1"]);
	answer(sockets[0], {event: "ack", data: list("d1", state("g1", 90))});
	tick(60_000);
	assert.deepEqual([chat.listing.size, chat.chats.size, asked(sockets[0]).length, told("error")], [0, 1, 4, []]);
});

test("a list that will never be had is an error, and not asked for again", async (t) => {
	const {chat, sockets, told} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready();
	answer(sockets[0], refusal("forbidden"));
	await settled();
	tick(60_000);
	assert.deepEqual([chat.listing.size, asked(sockets[0]).length, told("error").map(({code}) => code)], [0, 1, ["forbidden"]]);
});

test("a connection that breaks before the list has come gets it when it is back", async (t) => {
	for (const [name, before] of [["not answered", () => {}], ["refused", (socket) => answer(socket, refusal("unavailable"))]]) {
		await t.test(name, async (t) => {
			const {chat, sockets, again} = await play(t, {role: "admin", dealerId: "d1"});
			sockets[0].ready();
			before(sockets[0]);
			await settled();
			sockets[0].ends();
			const back = await again();
			back.ready({recovered: true}); // which tells no states
			assert.deepEqual(asked(back), ["d1"]);
			answer(back, {event: "ack", data: list("d1", state("g1", 90))});
			tick(60_000);
			assert.deepEqual([chat.listing.size, chat.chats.size, asked(back).length], [0, 1, 1]);
		});
	}
});

test("what comes while the list is on its way counts on top of it", async (t) => {
	const {chat, sockets} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready();
	const said = (seq) => ({event: "customer_message", seq, data: says("m")});
	sockets[0].says(said(101), chatMessage("of another chat", 102, {groupId: "g2"}), said(103));
	// As of 101; so its first two messages are from before.
	answer(sockets[0], {event: "ack", data: list("d1", state("g1", 101, {unread: 3, muted: true, adminId: "a1"}))});
	const {seq, unread, adminId} = chat.chats.get(chatKey("d1", "g1"));
	assert.deepEqual({seq, unread, adminId}, {seq: 103, unread: 4, adminId: "a1"});
});

test("a client that is closed asks for nothing more", async (t) => {
	const {chat, sockets} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready();
	answer(sockets[0], refusal("unavailable"));
	await settled();
	chat.close();
	tick(60_000);
	assert.equal(asked(sockets[0]).length, 1);
});

/** The chats that a connection was asked for by name. */
const named = ({sent}) => sent.filter(({event, data}) => event === "chats" && data.groupIds).map(({data}) => [data.dealerId, ...data.groupIds]);

test("a chat that was in no list is asked for by name", async (t) => {
	const {chat, sockets} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready({chats: [list("d1", state("g1", 90))]});
	sockets[0].says(
		{event: "customer_message", seq: 101, data: says("m")},
		{event: "customer_message", seq: 102, data: says("m", {groupId: "old"})},
		{event: "customer_message", seq: 103, data: says("m", {groupId: 7})},
	);
	assert.equal(chat.chats.get(chatKey("d1", "old")).unread, 1); // as far as it is known
	tick(100);
	assert.deepEqual(named(sockets[0]), [["d1", "old", "7"]]);
	sockets[0].says({event: "customer_message", seq: 104, data: says("m", {groupId: "old"})});
	answer(sockets[0], {event: "ack", data: list("d1", state("old", 102, {unread: 5, muted: true, adminId: "a1"}), state("7", 103, {unread: 1}))});
	const {seq, unread, adminId} = chat.chats.get(chatKey("d1", "old"));
	assert.deepEqual({seq, unread, adminId}, {seq: 104, unread: 6, adminId: "a1"});
	sockets[0].says({event: "customer_message", seq: 105, data: says("m", {groupId: "old"})});
	tick(60_000);
	assert.deepEqual([chat.chats.get(chatKey("d1", "old")).unread, named(sockets[0]).length], [7, 1]);
});

test("many such chats are asked for together, and not too often", async (t) => {
	const {sockets} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready({chats: [list("d1")]});
	for (let i = 0; i < 450; i++) sockets[0].says({event: "customer_message", seq: 101 + i, data: says("m", {groupId: `g${i}`})});
	tick(100);
	assert.deepEqual(named(sockets[0]).map((ids) => ids.length), [201]);
	tick(1999);
	assert.equal(named(sockets[0]).length, 1);
	tick(2001);
	assert.deepEqual(named(sockets[0]).map((ids) => ids.length), [201, 201, 51]);
});

test("what cannot be had by name is asked for again, or stays what was seen", async (t) => {
	const {chat, sockets, again, told} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready({chats: [list("d1")]});
	sockets[0].says({event: "customer_message", seq: 101, data: says("m", {groupId: "g9"})});
	tick(100);
	answer(sockets[0], refusal("rate_limited"));
	await settled();
	tick(3000);
	assert.equal(named(sockets[0]).length, 2);
	sockets[0].ends();
	const back = await again();
	back.ready({recovered: true});
	assert.deepEqual(named(back), [["d1", "g9"]]);
	answer(back, refusal("invalid_event")); // a router of an older version
	await settled();
	tick(60_000);
	assert.deepEqual([chat.chats.get(chatKey("d1", "g9")).unread, named(back).length], [1, 1]);
	assert.deepEqual(told("error").map(({code}) => code), ["invalid_event"]);
});

test("who does not follow all asks for nothing by name", async (t) => {
	for (const options of [{role: "service", dealerId: "d1"}, {role: "admin", dealerId: "d1", groupId: "g1"}]) {
		await t.test(options.role, async (t) => {
			const {sockets} = await play(t, options);
			sockets[0].ready();
			sockets[0].says({event: "customer_message", seq: 101, data: says("m", {groupId: "g9"})});
			tick(60_000);
			assert.deepEqual(named(sockets[0]), []);
		});
	}
});

test("of very many chats those that are quiet are forgotten, unless they are muted", async (t) => {
	const {chat, sockets} = await play(t, {role: "admin", dealerId: "d1"});
	sockets[0].ready({chats: [list("d1", state("quiet", 90), state("muted", 91, {muted: true, adminId: "a1"}))]});
	for (let i = 0; i <= 20_000; i++) sockets[0].says({event: "customer_message", seq: 101 + i, data: says("m", {groupId: `g${i}`})});
	assert.deepEqual([...chat.chats.keys()].slice(0, 2), [chatKey("d1", "muted"), chatKey("d1", "g10001")]);
	assert.equal(chat.chats.size, 10_001);
	sockets[0].says({event: "customer_message", seq: 30_000, data: says("m", {groupId: "quiet"})});
	assert.equal(chat.chats.get(chatKey("d1", "quiet")).unread, 1); // and what was before is asked for, as of any that is not known
});
