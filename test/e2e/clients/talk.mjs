// Has our own client say and ask all that it can at the URL that is given, break off and come back. It ends when all of
// that is done.
import assert from "node:assert/strict";
import {createRequire} from "node:module";

import {connect} from "../../../sdk/js/telle.js";

const WebSocket = createRequire(new URL("../../../sdk/js/package.json", import.meta.url))("ws");
const url = process.argv[2];
const chat = {dealerId: "d1", groupId: "js"}, byAdmin = {...chat, adminId: "a1"};

const open = (who) => connect({url, WebSocket, dealerId: "d1", backoff: {first: 20, most: 200}, ...who});
const next = (client, event) => new Promise((resolve) => {
	const handler = (...args) => {
		client.off(event, handler);
		resolve(args);
	};
	client.on(event, handler);
});

const sockets = [];
class Breakable extends WebSocket {
	constructor(...args) {
		super(...args);
		sockets.push(this);
	}
}

const admin = open({role: "admin", adminId: "a1"}), service = open({role: "service"});
const customer = open({role: "customer", groupId: "js", WebSocket: Breakable});
const hears = (event) => next(customer, event);

await Promise.all([admin, service, customer].map((client) => next(client, "ready")));
await service.follow("js");
await customer.send("client_join", {...chat, type: "CLIENT_JOIN", user: "customer"});
await customer.send("customer_message", {...chat, type: "UPDATE_MSG", user: "customer", message: "hi"});
await service.send("customer_message", {...chat, type: "UPDATE_MSG", user: "bot", message: {text: "hello"}});
await admin.send("CHAT_READ", {...byAdmin, type: "CHAT_READ"});
await admin.send("MUTE_STATE", {...byAdmin, type: "MUTE_STATUS", muted: true, ifOwner: null});
await assert.rejects(admin.send("MUTE_STATE", {...byAdmin, type: "MUTE_STATUS", muted: true, ifOwner: "a2"}), {code: "conflict"});
await admin.send("CHAT_MESSAGE", {...byAdmin, type: "CHAT_MSG", user: "admin", message: 1});
await admin.send("SYS_MESSAGE", {...byAdmin, type: "SYS_MSG", message: "soon"});
await admin.more({limit: 1});
await service.unfollow("js");
for (const client of [admin, customer]) {
	await client.history({groupId: "js", before: 1_000_000, limit: 200});
}

const back = hears("recovered");
sockets.at(-1).terminate();
await admin.send("CHAT_MESSAGE", {...byAdmin, type: "CHAT_MSG", user: "admin", message: "are you there?"});
await back;
await customer.send("customer_message", {...chat, type: "UPDATE_MSG", user: "customer", message: "again"});

const closed = hears("CLOSE_CHAT");
await admin.send("CLOSE_CHAT", {...byAdmin, type: "CLOSE_CHAT"});
await closed;
[admin, service, customer].forEach((client) => client.close());
