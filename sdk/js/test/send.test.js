import assert from "node:assert/strict";
import {test} from "node:test";

import {chatKey} from "../telle.js";
import {chatMessage, play, says, settled, tick} from "./fake.js";

const mute = (more) => ({type: "MUTE_STATUS", dealerId: "d1", groupId: "g1", adminId: 7, muted: true, ...more});

const texts = (socket) => socket.sent.map(({data}) => data.message);

test("an ack resolves, an error rejects with all that it says", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const [stored, taken] = [chat.send("customer_message", says("a")), chat.send("MUTE_STATE", mute({ifOwner: null}))];
	const [{id: first}, {id: second, data}] = sockets[0].sent;
	sockets[0].says({event: "error", id: second, error: {code: "conflict", message: "a2 has the chat", owner: "a2"}});
	sockets[0].says({event: "ack", id: first, seq: 12});
	assert.equal((await stored).seq, 12);
	await assert.rejects(taken, {name: "TelleError", code: "conflict", message: "a2 has the chat", owner: "a2", data});
});

test("an error that answers nothing is an event", async (t) => {
	const {sockets, told} = await play(t);
	sockets[0].ready();
	sockets[0].says({event: "error", error: {code: "too_large", message: "m"}});
	assert.deepEqual(told("error").map(({code}) => code), ["too_large"]);
});

test("what is sent while there is no connection is sent in order when it is back", async (t) => {
	const {chat, sockets, again} = await play(t);
	const sent = ["a", "b"].map((m) => chat.send("customer_message", says(m))); // not ready yet
	sockets[0].ends();
	sent.push(chat.send("customer_message", says("c")));
	const back = await again();
	assert.deepEqual(texts(back), []);
	back.ready();
	sent.push(chat.send("customer_message", says("d")));
	assert.deepEqual(texts(back), ["a", "b", "c", "d"]);
	back.acks(200);
	assert.deepEqual((await Promise.all(sent)).map(({seq}) => seq), [200, 201, 202, 203]);
});

test("what was not answered is sent again, byte for byte and first", async (t) => {
	const {chat, sockets, again} = await play(t);
	sockets[0].ready();
	const sent = ["a", "b", "c"].map((m) => chat.send("customer_message", says(m)));
	sockets[0].says({event: "ack", id: sockets[0].sent[1].id, seq: 201});
	await sent[1];
	sockets[0].ends();
	sent.push(chat.send("customer_message", says("d")));
	const back = await again();
	back.ready({recovered: true});
	assert.deepEqual(texts(back), ["a", "c", "d"]);
	assert.deepEqual(back.raw.slice(0, 2), [sockets[0].raw[0], sockets[0].raw[2]]);
	back.acks();
	await Promise.all(sent);
});

test("what the stream may have forgotten is not sent again", async (t) => {
	const {chat, sockets, again} = await play(t);
	sockets[0].ready();
	const sent = chat.send("customer_message", says("a"), {timeout: 1e9});
	tick(100_001);
	sockets[0].ends();
	await assert.rejects(sent, {code: "unavailable"});
	const back = await again();
	back.ready({recovered: true});
	back.says({event: "degraded"});
	const waited = chat.send("customer_message", says("b"));
	tick(3_600_000); // never sent: it can wait for as long as it takes
	back.says({event: "live"});
	assert.deepEqual(texts(back), ["b"]);
	back.acks();
	await waited;
});

test("the queue has a bound", async (t) => {
	const {chat, sockets} = await play(t, {queue: 2});
	const sent = ["a", "b"].map((m) => chat.send("customer_message", says(m)));
	await assert.rejects(chat.send("customer_message", says("c")), {code: "queue_full"});
	sockets[0].ready();
	const more = ["d", "e", "f"].map((m) => chat.send("customer_message", says(m)));
	assert.deepEqual(texts(sockets[0]), ["a", "b", "d", "e", "f"]);
	sockets[0].acks();
	await Promise.all([...sent, ...more]);
});

test("each event has a name, so that the stream can drop a double", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const data = says("a");
	const sent = [
		chat.send("customer_message", data), chat.send("customer_message", data), chat.send("MUTE_STATE", mute()),
		chat.send("customer_message", says("b", {id: 5})), chat.send("customer_message", says("c", {messageId: "mine"})),
		chat.history({groupId: "g1"}), chat.follow("g1"),
	];
	const [a, again, state, b, c, history, follow] = sockets[0].sent.map(({data}) => data);
	assert.match(a.messageId, /^[\w-]{16,}$/);
	assert.notEqual(a.messageId, again.messageId);
	assert.ok(state.messageId);
	assert.deepEqual([b.messageId, c.messageId], [undefined, "mine"]);
	assert.deepEqual([history, follow], [{groupId: "g1"}, {groupId: "g1"}]); // a field of another name is refused
	assert.equal(data.messageId, undefined);
	sockets[0].acks();
	await Promise.all(sent);
});

test("what is refused can be sent again as the same message", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const sent = chat.send("customer_message", says("a"));
	sockets[0].says({event: "error", id: sockets[0].sent[0].id, error: {code: "unavailable", message: "m"}});
	const err = await sent.catch((err) => err);
	const second = chat.send("customer_message", err.data);
	assert.deepEqual(sockets[0].sent[1].data, sockets[0].sent[0].data);
	sockets[0].acks();
	await second;
});

test("what can be nothing is refused at once, and sends nothing", async (t) => {
	const {chat, sockets} = await play(t);
	const nothing = [() => chat.send("customer_message"), () => chat.send("CHAT_MESSAGE", null), () => chat.send("MUTE_STATE", "text"),
		() => chat.send("SYS_MESSAGE", []), () => chat.send("history"), () => chat.history(), () => chat.history({limit: 1})];
	for (const send of nothing) await assert.rejects(send, {name: "TelleError", code: "invalid_event"}, String(send));
	sockets[0].ready();
	for (const send of nothing) await assert.rejects(send, {name: "TelleError", code: "invalid_event"}, String(send));
	assert.deepEqual(sockets[0].sent, []);
	const asked = [chat.follow(), chat.more()]; // these may say nothing
	sockets[0].acks();
	await Promise.all(asked);
});

test("no answer in time rejects, and makes a new connection", async (t) => {
	const {chat, sockets, told, again} = await play(t);
	sockets[0].ready();
	const late = chat.send("customer_message", says("a"), {timeout: 1000});
	const other = chat.send("customer_message", says("b"));
	tick(1000);
	await assert.rejects(late, {code: "timeout"});
	assert.ok(sockets[0].closed);
	assert.equal(told("state").at(-1)[0], "offline");
	const back = await again();
	back.ready({recovered: true});
	assert.deepEqual(texts(back), ["b"]);
	back.acks();
	await other;
});

test("while the router is degraded nothing is sent", async (t) => {
	const {chat, sockets, told} = await play(t);
	sockets[0].ready();
	sockets[0].says({event: "degraded"});
	const sent = chat.send("customer_message", says("a"));
	assert.deepEqual([chat.state, texts(sockets[0])], ["degraded", []]);
	sockets[0].says({event: "live"});
	assert.deepEqual([chat.state, texts(sockets[0])], ["live", ["a"]]);
	assert.deepEqual(told("recovered"), []); // the connection held
	sockets[0].acks();
	await sent;
});

test("a takeover that was stored before the connection broke is no conflict with itself", async (t) => {
	for (const [name, data, owner, resolves] of [
		["taken by me", mute({ifOwner: null}), "7", true],
		["taken by another one", mute({ifOwner: null}), "8", false],
		["released", mute({ifOwner: "7", muted: false}), null, true],
		["released, and taken by another one", mute({ifOwner: "7", muted: false}), "8", false],
	]) {
		await t.test(name, async (t) => {
			const {chat, sockets, again} = await play(t);
			sockets[0].ready();
			const sent = chat.send("MUTE_STATE", data);
			sockets[0].ends();
			const back = await again();
			back.ready({recovered: true});
			back.says({event: "error", id: back.sent[0].id, error: {code: "conflict", message: "m", owner}});
			await (resolves ? sent : assert.rejects(sent, {code: "conflict", owner}));
		});
	}
});

test("a conflict with the same admin elsewhere is one", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const sent = chat.send("MUTE_STATE", mute({ifOwner: null}));
	sockets[0].says({event: "error", id: sockets[0].sent[0].id, error: {code: "conflict", message: "m", owner: "7"}});
	await assert.rejects(sent, {code: "conflict"});
});

test("what a customer said in the session before does not come back to it", async (t) => {
	const {chat, sockets, told, again} = await play(t);
	sockets[0].ready();
	const sent = [chat.send("customer_message", says("mine")), chat.send("customer_message", says("counted", {id: 1}))];
	sockets[0].acks(101);
	await Promise.all(sent);
	sockets[0].ends();
	const back = await again();
	back.ready({recovered: true});
	const echoes = sockets[0].sent.map(({data}, i) => ({event: "CHAT_MESSAGE", seq: 101 + i, data: {...data, type: "CHAT_MSG"}}));
	back.says(...echoes, chatMessage("the bot counts, too", 103, {id: 1}), {event: "live"});
	assert.deepEqual(told("event").map(({data}) => data.message), ["the bot counts, too"]);
	assert.deepEqual(told("recovered"), [1]);
	back.ends();
	assert.equal((await again()).query.get("since"), "103");
});

test("close rejects what is not answered", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const sent = chat.send("customer_message", says("a"));
	chat.close();
	await assert.rejects(sent, {code: "closed"});
});

test("states come with ready and acks, and change by events", async (t) => {
	const state = (groupId, seq, more) => ({dealerId: "d1", groupId, seq, muted: false, open: true, online: false, unread: 0, ...more});
	const {chat, sockets, told} = await play(t);
	const chats = [{dealerId: "d1", chats: [state("g2", 95), state("g1", 80)], more: true}];
	sockets[0].ready({states: [state("g1", 90, {unread: 2})], chats});
	assert.equal(chat.chats.get(chatKey("d1", "g1")).unread, 2);
	assert.deepEqual([...chat.chats.values()].map(({groupId, seq}) => [groupId, seq]), [["g1", 90], ["g2", 95]]);

	sockets[0].says({event: "customer_message", seq: 101, data: says("m")});
	assert.equal(chat.chats.get(chatKey("d1", "g1")).unread, 3);
	const [key, changed] = told("states").at(-1);
	assert.deepEqual([key, changed.seq], [chatKey("d1", "g1"), 101]);

	const join = chat.send("client_join", {type: "CLIENT_JOIN", dealerId: "d1", groupId: "g3", user: "customer"});
	sockets[0].says({event: "ack", id: sockets[0].sent[0].id, seq: 102, state: state("g3", 60, {muted: true, adminId: "a1"})});
	assert.equal((await join).state.adminId, "a1");
	assert.equal(chat.chats.get(chatKey("d1", "g3")).muted, true);

	const more = chat.more();
	assert.deepEqual(sockets[0].sent[1], {event: "chats", id: sockets[0].sent[1].id, data: {before: 80}});
	sockets[0].says({event: "ack", id: sockets[0].sent[1].id, data: {dealerId: "d1", chats: [state("g4", 70)], more: false}});
	assert.equal((await more).more, false);
	assert.equal(chat.chats.size, 4);

	sockets[0].says({event: "SYS_MESSAGE", seq: 110, data: {type: "SYS_MSG", dealerId: "d1", adminId: "a", message: "to all"}});
	assert.equal(chat.chats.size, 4); // it is of no one chat
});

test("what a customer says counts at once, though it does not come back", async (t) => {
	const {chat, sockets} = await play(t);
	const closed = {dealerId: "d1", groupId: "g1", seq: 90, muted: false, open: false, online: true, unread: 0};
	sockets[0].ready({states: [closed]});
	const sent = chat.send("customer_message", says("hello?"));
	sockets[0].acks(101);
	await sent;
	const key = chatKey("d1", "g1");
	assert.equal(chat.chats.get(key).open, true);
	// Stored before it, and delivered after its ack.
	sockets[0].says({event: "MUTE_STATE", seq: 100, data: mute()});
	assert.equal(chat.chats.get(key).adminId, "7");
});

test("an id of more digits than a number can hold keeps them", async (t) => {
	const {chat, sockets, told} = await play(t);
	sockets[0].ready();
	const message = String.raw`"the text \"dealerId\":12345678901234567890,\""`;
	sockets[0].says(`{"event":"CHAT_MESSAGE","data":{"dealerId":12345678901234567890, "groupId": 12 ,"type":"CHAT_MSG","user":"bot","message":${message}},"seq":101}`);
	assert.deepEqual([...chat.chats.keys()], [chatKey("12345678901234567890", 12)]);
	assert.equal(told("event")[0].data.message, JSON.parse(message));
});

test("history is asked for by page", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const page = chat.history({groupId: "g1", before: 50, limit: 10});
	assert.deepEqual(sockets[0].sent[0].data, {groupId: "g1", before: 50, limit: 10});
	const data = {dealerId: "d1", groupId: "g1", events: [{event: "CHAT_MESSAGE", data: {}, seq: 12, at: "2026-01-02T03:04:05.678Z"}], more: true, before: 12};
	sockets[0].says({event: "ack", id: sockets[0].sent[0].id, data});
	assert.deepEqual(await page, data);
});

test("what it follows it follows again", async (t) => {
	await t.test("named by the handshake, if it named any", async (t) => {
		const {chat, sockets, again} = await play(t, {role: "admin", dealerId: "d1", groupId: "g1"});
		sockets[0].ready();
		const asked = [chat.follow("g2"), chat.unfollow("g1", "d1")];
		sockets[0].acks();
		await Promise.all(asked);
		sockets[0].ends();
		const back = await again();
		assert.deepEqual(back.query.getAll("groupId"), ["g1", "g2"].slice(1));
		back.ready({recovered: true});
		assert.deepEqual(back.sent, []);
	});
	await t.test("an admin of all chats is not narrowed", async (t) => {
		const {chat, sockets, again} = await play(t, {role: "admin", dealerId: "d1"});
		sockets[0].ready({chats: [{dealerId: "d1", chats: [], more: false}]});
		const asked = chat.follow("g2", "d2");
		sockets[0].acks();
		await asked;
		sockets[0].ends();
		const back = await again();
		assert.deepEqual(back.query.getAll("groupId"), []);
		const waited = chat.send("CHAT_MESSAGE", {message: "m"});
		back.ready({recovered: true});
		assert.deepEqual(back.sent.map(({event}) => event), ["follow", "CHAT_MESSAGE"]);
		back.acks();
		await waited;
	});
	await t.test("a customer who has joined names the chat in the handshake: a join would be stored again", async (t) => {
		const {chat, sockets, again} = await play(t, {role: "customer", dealerId: "d1"});
		sockets[0].ready();
		const join = {type: "CLIENT_JOIN", dealerId: "d1", groupId: "g1", user: "customer"};
		const asked = chat.send("client_join", join);
		sockets[0].acks();
		await asked;
		sockets[0].ends();
		const back = await again();
		back.ready({recovered: false});
		assert.deepEqual([back.query.getAll("groupId"), back.sent], [["g1"], []]);
	});
});

test("handlers can be taken off, and one that is at fault stops no other", async (t) => {
	const {chat, sockets, heard} = await play(t);
	const off = () => assert.fail("it was taken off");
	chat.on("CHAT_MESSAGE", off).off("CHAT_MESSAGE", off);
	const fault = new Error("a page's");
	const seen = [];
	chat.on("CHAT_MESSAGE", () => { throw fault; }).on("CHAT_MESSAGE", (data, seq) => seen.push([data.message, seq]));
	sockets[0].ready();
	sockets[0].says(chatMessage("a", 101));
	assert.deepEqual(seen, [["a", 101]]);
	assert.throws(() => tick(0), fault);
	assert.equal(heard.filter(([event]) => event === "event").length, 1);
});
