// Compiled, not run: what a page may write, and what it may not.
import { chatKey, connect, fold, TelleError, type State } from "../telle.js";

const chat = connect({ url: "https://chat.test", token: async () => "t", role: "admin", dealerId: 12, groupId: ["g1", 2], backoff: { most: 1 } });

chat.on("state", (state, why) => console.log(state === "offline" && why?.retryIn))
	.on("recovered", (events) => console.log(events + 1))
	.on("CHAT_MESSAGE", (data, seq) => console.log(data.message, data.user, seq))
	.on("event", (event) => {
		if (event.event === "MUTE_STATE") console.log(event.data.muted);
	});
chat.on("states", (key: string, state: State) => console.log(key === chatKey(12, "g1"), state.unread));

try {
	const { seq } = await chat.send("MUTE_STATE", { type: "MUTE_STATUS", dealerId: 12, groupId: "g1", adminId: "a1", muted: true, ifOwner: null });
	console.log(seq);
} catch (err) {
	if (err instanceof TelleError && err.code === "conflict") console.log(err.owner);
}
chat.on("chats", ({ dealerId, more }) => console.log(more, chat.listing.has(dealerId)));
const page = await chat.history({ groupId: "g1", limit: 10 });
for (const { event, at } of page.events) console.log(event, at);
console.log(fold(undefined, { data: page.events[0].data, seq: 1 })?.open);

// @ts-expect-error a message of another channel
void chat.send("CLOSE_CHAT", { type: "CHAT_MSG", dealerId: 1, groupId: 2, adminId: 3 });
// @ts-expect-error no such event
chat.on("stat", () => {});
// @ts-expect-error of which chat
void chat.history();
// @ts-expect-error nobody else may set it
chat.state = "live";
