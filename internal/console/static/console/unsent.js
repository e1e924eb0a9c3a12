// What was written and is not in the stream yet. It outlives a session that ends, for who has written it and for nobody else;
// it does not outlive the page, which therefore asks before it goes.

import { $ } from "./dom.js";

/** Replies that are on their way, or were not stored: id -> {id, adminId, dealerId, groupId, key, text, error}. */
export const replies = new Map();

const drafts = new Map(); // by who writes and where

const place = (adminId, key) => `${adminId}\u0000${key}`;

export function keepDraft(adminId, key, text) {
	if (text.trim()) drafts.set(place(adminId, key), text);
}

/** The draft that was kept; it is not any more. */
export function takeDraft(adminId, key) {
	const text = drafts.get(place(adminId, key)) ?? "";
	drafts.delete(place(adminId, key));
	return text;
}

addEventListener("beforeunload", (e) => {
	if (replies.size > 0 || drafts.size > 0 || $("draft").value.trim()) e.preventDefault();
});
