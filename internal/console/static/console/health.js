// On top: whether what one sees is what is there. What it is, is read out; the seconds until the next try stand beside it, and are not.

import { $, count, write } from "./dom.js";

const words = {
	connecting: "Connecting …",
	live: "Live",
	degraded: "Degraded: the router is there, but nothing comes live. What is missed will be shown.",
	offline: "Router gone",
	closed: "Closed",
};

let waiting; // the countdown to the next attempt

export function showHealth({ state, retryIn }) {
	clearInterval(waiting);
	$("health").dataset.state = state;
	write($("health-text"), words[state] ?? state);
	if (state !== "offline" || !retryIn) return write($("next-try"), "");
	const until = Date.now() + retryIn;
	const say = () => write($("next-try"), `next try in ${Math.max(0, Math.ceil((until - Date.now()) / 1000))} s`);
	say();
	waiting = setInterval(say, 1000);
}

export function showRecovered(n) {
	write($("recovered"), `recovered ${count(n, "event")}, ${new Date().toTimeString().slice(0, 8)}`);
}
