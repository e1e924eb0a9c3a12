/** An id: 12 and "12" are the same. Integers of more than 15 digits come as text. */
export type ID = string | number;

export type Role = "customer" | "admin" | "service";

/** Where the connection stands: "offline" waits to come back, "closed" is for good, "degraded": for now nothing comes live. */
export type ConnectionState = "connecting" | "live" | "degraded" | "offline" | "closed";

/** The events of conversations, by the channel on which they travel. */
export type Channel =
	| "customer_message" | "client_join" | "CHAT_MESSAGE" | "MUTE_STATE" | "CLOSE_CHAT" | "SYS_MESSAGE" | "CHAT_READ";

/** What a conversation's events have made of it: State of the router's pkg/events. */
export interface State {
	dealerId: string;
	groupId: string;
	/** Of the last event that is in it; 0: none is. */
	seq: number;
	muted: boolean;
	/** Who has the chat; absent: nobody. */
	adminId?: string;
	open: boolean;
	/** The customer is there. Customers and services are not told. */
	online: boolean;
	/** The sequence of the last client_join. */
	joined?: number;
	/** Messages of the customer since an admin last spoke or read. */
	unread: number;
	/** RFC 3339. Of an event that came live: when it came. */
	lastActivity?: string;
}

interface Chat {
	dealerId: ID;
	groupId: ID;
	/** With one, a message can be sent again within 2 minutes and is stored once. send() makes one where there is none. */
	id?: ID;
	messageId?: ID;
}

export interface CustomerMessage extends Chat {
	type: "UPDATE_MSG";
	user: "customer" | "bot";
	message: unknown;
	adminId?: ID;
	muted?: boolean;
	unread?: number;
}

export interface ClientJoin extends Chat {
	type: "CLIENT_JOIN";
	user: "customer";
	online?: boolean;
}

export interface ChatMessage extends Chat {
	type: "CHAT_MSG";
	user: "admin" | "customer" | "bot";
	message: unknown;
	adminId?: ID;
	muted?: boolean;
	unread?: number;
}

export interface MuteState extends Chat {
	type: "MUTE_STATUS";
	adminId: ID;
	muted: boolean;
	/** Stored only if this admin, or null: nobody, has the chat. Else refused: "conflict", with `owner`. */
	ifOwner?: ID | null;
}

export interface CloseChat extends Chat {
	type: "CLOSE_CHAT";
	adminId: ID;
	user?: "admin";
	close?: true;
}

/** Without groupId: to all chats of the dealer. */
export interface SysMessage extends Omit<Chat, "groupId"> {
	type: "SYS_MSG";
	groupId?: ID;
	adminId: ID;
	message: unknown;
	user?: "admin";
	muted?: boolean;
	unread?: number;
}

export interface ChatRead extends Chat {
	type: "CHAT_READ";
	adminId: ID;
}

export interface Messages {
	customer_message: CustomerMessage;
	client_join: ClientJoin;
	CHAT_MESSAGE: ChatMessage;
	MUTE_STATE: MuteState;
	CLOSE_CHAT: CloseChat;
	SYS_MESSAGE: SysMessage;
	CHAT_READ: ChatRead;
}

/** An event of a conversation; seq is its place in the stream. */
export type Event = { [C in Channel]: { event: C; data: Messages[C]; seq: number } }[Channel];

/** An event of old, with when it was stored (RFC 3339). */
export type StoredEvent = Event & { at: string };

export interface Ready {
	session: string;
	/** Everything after it comes. */
	seq: number;
	/** There when the client has come back: whether it gets what it has missed. */
	recovered?: boolean;
	/** Not recovered: the oldest sequence that the stream surely holds. */
	oldest?: number;
	/** Of the chats that were named. They are in `chats` already. */
	states?: State[];
	/**
	 * For an admin who follows all chats of dealers: the open ones, the latest first. They are in `chats` already. A list that
	 * was not there in time is left out, and asked for: see `listing`.
	 */
	chats?: Chats[];
}

export interface Chats {
	dealerId: string;
	chats: State[];
	/** There are more: see more(). */
	more: boolean;
}

export interface HistoryRequest {
	groupId: ID;
	dealerId?: ID;
	/** A sequence: what is before it. */
	before?: number;
	/** 1 to 200, without it 50. */
	limit?: number;
	timeout?: number;
}

export interface History {
	dealerId: string;
	groupId: string;
	/** Ascending. */
	events: StoredEvent[];
	more: boolean;
	before: number;
}

export interface Answer {
	/** The event's place in the stream: it is stored. Absent where nothing was stored by this. */
	seq?: number;
	state?: State;
	data?: unknown;
}

/** Why a connection ended, and in how many ms the next attempt is. */
export interface Why {
	code: number;
	reason: string;
	retryIn?: number;
}

export interface Handlers {
	state: (state: ConnectionState, why?: Why) => void;
	ready: (data: Ready) => void;
	/** It has come back, and so many events that it had missed have come. */
	recovered: (events: number) => void;
	/** It has come back, and may have missed what will not come: load anew. */
	lost: (data: Ready) => void;
	event: (event: Event) => void;
	/** A list of a dealer's open chats has come: with "ready", later, or by more(). They are in `chats` already. */
	chats: (list: Chats) => void;
	/** One of `chats` has changed. */
	states: (key: string, state: State) => void;
	/** The token ends soon. If it is a function, a new one is asked for. */
	expiring: (data: { seconds: number }) => void;
	error: (error: TelleError) => void;
}

export interface SocketConstructor {
	new (url: string): {
		onmessage: any;
		onclose: any;
		onerror: any;
		send(data: string): void;
		close(): void;
	};
}

export interface Options {
	/** http(s) is turned into ws(s); "/ws" is added if there is no path. */
	url: string | URL;
	/** A function is asked at each attempt; and when the router refuses a token, or says that it ends soon. */
	token?: string | (() => string | Promise<string>);
	role?: Role;
	dealerId?: ID | ID[];
	/** The chats that are followed from the start, and resumed. */
	groupId?: ID | ID[];
	adminId?: ID;
	/** How much may wait while there is no connection (100). */
	queue?: number;
	/** How long an answer may take, in ms (15,000), from when the event goes over the wire. */
	timeout?: number;
	/** The longest first pause between two attempts, and the longest of all, in ms (500, 30,000). */
	backoff?: { first?: number; most?: number };
	/** Where there is no global one, as in Node.js before 22: that of the package ws. */
	WebSocket?: SocketConstructor;
}

export interface Client {
	readonly state: ConnectionState;
	/**
	 * The chats that are followed, by chatKey. One that was in no list is there with its first event, and what was before is
	 * asked for.
	 */
	readonly chats: Map<string, State>;
	/** The dealers whose list of chats was late, to an admin who follows all: it is asked for, and not in `chats` yet. */
	readonly listing: ReadonlySet<string>;
	on<K extends keyof Handlers>(event: K, handler: Handlers[K]): this;
	on<C extends Channel>(channel: C, handler: (data: Messages[C], seq: number) => void): this;
	off<K extends keyof Handlers>(event: K, handler: Handlers[K]): this;
	off<C extends Channel>(channel: C, handler: (data: Messages[C], seq: number) => void): this;
	/** Rejects with TelleError. */
	send<C extends Channel>(channel: C, data: Messages[C], options?: { timeout?: number }): Promise<Answer>;
	history(request: HistoryRequest): Promise<History>;
	more(request?: { dealerId?: ID; limit?: number }): Promise<Chats>;
	follow(groupId?: ID, dealerId?: ID): Promise<Answer>;
	unfollow(groupId?: ID, dealerId?: ID): Promise<Answer>;
	close(): void;
}

export class TelleError extends Error {
	constructor(error: { code: string; message: string; owner?: string | null }, data?: unknown);
	/** One of docs/protocol.md, or "closed", "queue_full", "timeout". */
	code: string;
	/** Of "conflict": who has the chat; null: nobody. */
	owner?: string | null;
	/** What was sent. It has its messageId: send it again, and it is stored once. */
	data?: unknown;
}

export function connect(options: Options): Client;
/** What a token says, unchecked: the router checks it. null: it is none. */
export function claimsOf(token: string): Record<string, unknown> | null;
export function chatKey(dealerId: ID, groupId: ID): string;
export function fold(state: State | undefined, event: { data: object; seq: number; at?: string }): State | undefined;
