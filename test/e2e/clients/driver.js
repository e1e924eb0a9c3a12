// Drives official Socket.IO clients for a test in Go, which sends a command in each line of standard input and reads
// a report in each line of standard output. driver.py does the same for Python's client.
//
//	{"do":"open","as":"a","module":"socket.io-client","url":"http://…","namespace":"/","query":{…},"auth":{…},"transports":[…]}
//	{"do":"emit","as":"a","event":"CHAT_MESSAGE","args":[…],"ask":true}   ask: with a callback
//	{"do":"emitWithAck","as":"a","event":"history","args":[…]}            the answer is that of a promise
//	{"do":"binary","as":"a","event":"CHAT_MESSAGE","ask":true}            an event of bytes
//	{"do":"ledgers"}
//
//	{"of":"a","what":"connect","id":"…","recovered":false,"transport":"polling"}
//	{"of":"a","what":"upgrade","transport":"websocket"}
//	{"of":"a","what":"event","event":"CHAT_MESSAGE","args":[…]}
//	{"of":"a","what":"answer","args":[…]}                                 what a callback was called with
//	{"of":"a","what":"disconnect","reason":"…"}
//	{"of":"a","what":"connect_error","reason":"…","data":{…}}
//
// A client that is opened with "expect":n reports only connections, and that it has had n events: {"what":"filled"}.
// It keeps a ledger, of which "ledgers" reports the short form.
"use strict";

const clients = new Map(); // by name: {socket, ledger}

const tell = (report) => process.stdout.write(JSON.stringify(report) + "\n");

const commands = {
	open({as, module, url, namespace = "/", query, auth, transports, expect}) {
		const {io} = require(module);
		const options = {forceNew: true, query, auth};
		if (transports) {
			options.transports = transports;
		}
		const socket = io(url + namespace, options);
		const ledger = expect && new Ledger(() => tell({of: as, what: "filled"}), expect);
		clients.set(as, {socket, ledger});
		socket.io.on("open", () => {
			socket.io.engine.on("upgrade", (transport) => tell({of: as, what: "upgrade", transport: transport.name}));
		});
		socket.on("connect", () => {
			ledger?.join(socket.recovered);
			tell({of: as, what: "connect", id: socket.id, recovered: socket.recovered === true,
				transport: socket.io.engine.transport.name});
		});
		socket.on("disconnect", (reason) => tell({of: as, what: "disconnect", reason}));
		socket.on("connect_error", (err) => tell({of: as, what: "connect_error", reason: err.message, data: err.data}));
		socket.onAny((event, ...args) => ledger ? ledger.enter(event, args) : tell({of: as, what: "event", event, args}));
	},

	emit({as, event, args, ask}) {
		const answer = (...args) => tell({of: as, what: "answer", args});
		clients.get(as).socket.emit(event, ...args, ...(ask ? [answer] : []));
	},

	async emitWithAck({as, event, args}) {
		tell({of: as, what: "answer", args: [await clients.get(as).socket.emitWithAck(event, ...args)]});
	},

	binary({as, event, ask}) {
		commands.emit({as, event, args: [Buffer.from([0, 1, 2])], ask});
	},

	ledgers() {
		const ledgers = {};
		for (const [name, {ledger}] of clients) {
			if (ledger) {
				ledgers[name] = ledger.short();
			}
		}
		tell({what: "ledgers", ledgers});
	},
};

// A Ledger holds which numbered messages have come, for each chat in the order in which they came.
class Ledger {
	constructor(filled, expect) {
		this.filled = filled;
		this.expect = expect; // how many events, until it is filled
		this.events = 0;
		this.joins = 0;
		this.recovered = 0;
		this.chats = {}; // by group: {runs: [[first, last], …], offset}
		this.strange = []; // what should not have come
	}

	join(recovered) {
		this.joins++;
		this.recovered += recovered === true;
	}

	enter(event, args) {
		const [{groupId, message} = {}, offset] = args;
		if (event === "chats") {
			return; // admins get the list of open chats whenever they are not recovered
		}
		if (event !== "CHAT_MESSAGE" || args.length !== 2) {
			this.strange.push(event);
			return;
		}
		const chat = this.chats[groupId] ??= {runs: [], offset: 0};
		if (!(Number(offset) > chat.offset)) {
			this.strange.push(`offset ${offset} after ${chat.offset}`);
		}
		chat.offset = Number(offset);
		const n = Number(message), run = chat.runs.at(-1);
		if (run && n === run[1] + 1) {
			run[1] = n;
		} else {
			chat.runs.push([n, n]);
		}
		if (++this.events === this.expect) {
			this.filled();
		}
	}

	// short is {"g1":"0-199"} where all is well, and {"g1":"0-100 99-199"} where two messages came twice.
	short() {
		const chats = {};
		for (const [group, {runs}] of Object.entries(this.chats)) {
			chats[group] = runs.map((run) => run.join("-")).join(" ");
		}
		return {chats, joins: this.joins, recovered: this.recovered, strange: this.strange};
	}
}

require("node:readline").createInterface({input: process.stdin})
	.on("line", (line) => {
		const command = JSON.parse(line);
		commands[command.do](command);
	})
	.on("close", () => process.exit(0));
