// What is said and followed when a connection was away, or is about to be.
import assert from "node:assert/strict";
import {test} from "node:test";

import {play, says, settled, tick} from "./fake.js";

const join = {type: "CLIENT_JOIN", dealerId: "d1", groupId: "g1", user: "customer"};

const texts = ({sent}) => sent.map(({data}) => data.message);

test("what the handshake cannot name is followed again by name of its own", async (t) => {
	for (const [name, options, follow, want] of [
		["all chats, by a service", {role: "service", dealerId: "d1"}, (chat) => chat.follow(), ["", "follow"]],
		["all chats, by an admin of one", {role: "admin", dealerId: "d1", groupId: "g9"}, (chat) => chat.follow(), ["g9", "follow"]],
		["what a service has joined, in the handshake", {role: "service", dealerId: "d1"}, (chat) => chat.send("client_join", join), ["g1", ""]],
	]) {
		await t.test(name, async (t) => {
			const {chat, sockets, again} = await play(t, options);
			sockets[0].ready();
			const followed = follow(chat);
			sockets[0].acks();
			await followed;
			sockets[0].ends();
			const back = await again();
			back.ready({recovered: false});
			assert.deepEqual([back.query.getAll("groupId").join(), back.sent.map(({event}) => event).join()], want);
		});
	}
});

test("a connection that breaks again and again does not join more and more often", async (t) => {
	const {chat, sockets, again} = await play(t, {role: "service", dealerId: ["d1", "d2"]});
	sockets[0].ready();
	const done = [chat.follow("g1", "d1"), chat.send("client_join", {...join, groupId: "g2"})];
	sockets[0].acks();
	await Promise.all(done);
	for (let i = 0; i < 4; i++) {
		sockets.at(-1).ends();
		const back = await again();
		back.ready({recovered: false});
		assert.deepEqual(back.sent.map(({event, data}) => event + data.groupId), ["followg1", "followg2"]);
	}
});

test("who has left a chat does not join it again", async (t) => {
	const {chat, sockets, again} = await play(t, {role: "service", dealerId: ["d1", "d2"]});
	sockets[0].ready();
	const joined = chat.send("client_join", join);
	sockets[0].acks();
	await joined;
	const left = chat.unfollow("g1", "d1");
	sockets[0].acks();
	await left;
	sockets[0].ends();
	const back = await again();
	back.ready({recovered: false});
	assert.deepEqual(back.sent, []);
});

test("a machine that has slept sends nothing again that the stream does not know any more", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	const sent = assert.rejects(chat.send("customer_message", says("x")), {code: "unavailable"});
	sockets[0].ends();
	tick(3_600_000);
	await settled();
	sockets.at(-1).ready({recovered: true});
	await sent;
	assert.deepEqual(sockets.at(-1).sent, []);
});

test("what is sent when a connection is there goes behind what has waited for it", async (t) => {
	for (const [event, begin] of [["ready", (s) => s.ready()], ["state", (s) => s.says({event: "live"})]]) {
		await t.test(event, async (t) => {
			const {chat, sockets} = await play(t);
			if (event === "state") {
				sockets[0].ready();
				sockets[0].says({event: "degraded"});
			}
			chat.send("customer_message", says("first")).catch(() => {});
			chat.on(event, (state) => state !== "closed" && chat.send("customer_message", says("second")).catch(() => {}));
			begin(sockets[0]);
			assert.deepEqual(texts(sockets[0]), ["first", "second"]);
		});
	}
});

test("what was given up and is stored all the same is told", async (t) => {
	const {chat, sockets, again, told} = await play(t);
	sockets[0].ready();
	const sent = assert.rejects(chat.send("customer_message", says("x", {messageId: "m1"})), {code: "timeout"});
	tick(15_000);
	await sent;
	const back = await again();
	back.ready({recovered: true});
	back.says({event: "customer_message", seq: 101, data: says("x", {messageId: "m1"})}, {event: "live"});
	assert.deepEqual([told("event").length, told("recovered")], [1, [1]]);
});

test("a token that never comes is asked for again", async (t) => {
	let asked = 0;
	const {chat} = await play(t, {token: () => new Promise(() => asked++)});
	tick(15_000);
	await settled();
	assert.equal(chat.state, "offline");
	tick(60_000);
	await settled();
	assert.equal(asked, 2);
});

test("what is sent when all is over is refused as such", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	let refused;
	chat.on("error", () => { refused = assert.rejects(chat.send("customer_message", says("x")), {code: "closed"}); });
	sockets[0].ends(4403, "no");
	await refused;
});

test("a router that is busy with what was asked before is not given up", async (t) => {
	const {chat, sockets} = await play(t);
	sockets[0].ready();
	for (let i = 0; i < 5; i++) chat.history({groupId: "g1"}).catch(() => {});
	for (const {id} of [...sockets[0].sent]) {
		tick(4900);
		sockets[0].says({event: "ack", id, data: {events: []}});
	}
	assert.deepEqual([sockets.length, sockets[0].closed], [1, undefined]);
});

test("a follow that is refused for now is asked for again, one that is refused for good is told", async (t) => {
	for (const [code, want] of [["unavailable", ["follow", "follow"]], ["forbidden", ["follow"]]]) {
		await t.test(code, async (t) => {
			const {chat, sockets, again, told} = await play(t, {role: "service", dealerId: ["d1", "d2"]});
			sockets[0].ready();
			const followed = chat.follow("g1", "d1");
			sockets[0].acks();
			await followed;
			sockets[0].ends();
			const back = await again();
			back.ready({recovered: false});
			back.says({event: "error", id: back.sent[0].id, error: {code, message: "m"}});
			await settled();
			tick(60_000);
			assert.deepEqual([back.sent.map(({event}) => event), told("error").length], [want, 2 - want.length]);
		});
	}
});

test("the handshake names as many chats as it may, and the others are followed", async (t) => {
	const {chat, sockets, again} = await play(t, {role: "service", dealerId: "d1", groupId: Array.from({length: 101}, (_, i) => `g${i}`)});
	sockets[0].ready();
	assert.deepEqual([sockets[0].query.getAll("groupId").length, sockets[0].sent.map(({data}) => data.groupId)], [100, ["g100"]]);
	assert.equal(chat.state, "live");
	sockets[0].ends();
	assert.equal((await again()).query.getAll("groupId").length, 100);
});

test("an admin who has left all of its chats is not shown those of the dealer", async (t) => {
	const {chat, sockets, again} = await play(t, {role: "admin", dealerId: "d1", groupId: "g1"});
	sockets[0].ready();
	const left = chat.unfollow("g1");
	sockets[0].acks();
	await left;
	sockets[0].ends();
	const back = await again();
	back.ready({recovered: true});
	assert.deepEqual([back.query.getAll("groupId"), back.sent.map(({event, data}) => event + data.groupId)], [["g1"], ["unfollowg1"]]);
});
