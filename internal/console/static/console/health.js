// On top: whether what one sees is what is there.

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
	if (state !== "offline" || !retryIn) return write($("health-text"), words[state] ?? state);
	const until = Date.now() + retryIn;
	const say = () => {
		const seconds = Math.max(0, Math.ceil((until - Date.now()) / 1000));
		write($("health-text"), `${words.offline}, back in ${seconds} s`);
	};
	say();
	waiting = setInterval(say, 1000);
}

export function showRecovered(n) {
	write($("recovered"), `recovered ${count(n, "event")}, ${new Date().toTimeString().slice(0, 8)}`);
}
