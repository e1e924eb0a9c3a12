// Package events is the interface of the event router: every message that goes
// in or out, what makes it valid, and who sees it in which form.
//
// A message is a JSON object. What comes in is checked once and then kept byte
// for byte: fields that this package does not know, and the value of "message",
// pass through untouched. An event is stored in the form in which it was sent;
// the form that a socket sees is made on the way out by [Event.Frame].
//
// # What comes in
//
// Other servers send [UpdateMsg], [MuteBot], [UnmuteBot], [CloseChat] and
// [SysMsg] through a Redis channel or HTTP ([ParseServer]). Sockets send frames
// on named channels ([ParseFrame]): chatbots "customer_message" ([UpdateMsg]) and
// "client_join" ([ClientJoin]); clients, which are admins, "MUTE_STATE"
// ([MuteStatus]), "CLOSE_CHAT" ([CloseChat]), "CHAT_MESSAGE" ([ChatMsg]),
// "SYS_MESSAGE" ([SysMsg]) and "CHAT_READ" ([ChatRead]). All nine types may stand in
// the stream ([ParseStored]), where any NATS client may put them.
//
// # What goes out
//
// One stored event has two audiences:
//
//	stored                              to Chatbot sockets            to Client sockets
//	UPDATE_MSG, CHAT_MSG of a customer  CHAT_MESSAGE: CHAT_MSG        customer_message: UPDATE_MSG
//	UPDATE_MSG, CHAT_MSG of others      CHAT_MESSAGE: CHAT_MSG        CHAT_MESSAGE: CHAT_MSG
//	MUTE_BOT, UNMUTE_BOT, MUTE_STATUS   MUTE_STATE: MUTE_STATUS       MUTE_STATE: MUTE_STATUS
//	CLOSE_CHAT                          CLOSE_CHAT: CLOSE_CHAT        CLOSE_CHAT: CLOSE_CHAT
//	SYS_MSG                             SYS_MESSAGE: SYS_MSG          SYS_MESSAGE: SYS_MSG
//	CLIENT_JOIN                         nothing                       client_join: CLIENT_JOIN
//	CHAT_READ                           nothing                       CHAT_READ: CHAT_READ
//
// A CHAT_MESSAGE does not go back to the chatbot socket that sent it.
//
// # Errors
//
// Every refusal of a message is a [*FieldError], which names the field. Fields
// that the message's type does not have are not looked at, save for ids, which have
// one form wherever they stand, and for a known name that stands there twice.
package events
