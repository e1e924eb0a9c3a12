// Package client is a client of the event router over plain WebSocket, for Go programs:
// a chatbot, a back end, a test. It does what sdk/js does for pages.
//
// A [Client] lives as long as its [Client.Run]. It comes back by itself after whatever
// broke its connection, to whichever router it reaches, and gets what it has missed; what
// is sent meanwhile waits. It is told of events in the order of the stream, each once.
//
// # What is promised
//
//   - [Config.OnEvent] and the other functions are called one at a time, in the order in
//     which things happened. While they take their time, nothing more is read than a
//     bounded number of events, but while an answer is awaited: the router waits. They
//     may call all methods.
//   - A connection that is dead is noticed within 40 s, also by who only listens.
//   - An event that is sent has an id, "messageId", if it has none of its own. If the
//     connection breaks before it is answered it is sent again, and the stream keeps one
//     of both. That is so for 100 s: the stream knows a double for 2 minutes.
//   - A takeover (see [Takeover]) that is sent again and is refused because its outcome is
//     there already was stored the first time: it is answered without a sequence.
//   - After a break [Config.OnRecovered] is called when all that was missed has come, or
//     [Config.OnLost] if the stream does not surely hold it any more. Give [Config.Groups]
//     where there are single chats: only what the handshake names is recovered, 100 at most.
//
// docs/protocol.md of the router has what travels.
package client
