// On the page that stands in for a dealer's web site, where the router asks for tokens: what a dealer's own page would
// get from its server, a person pastes, or gives behind the address as #token=….
"use strict";
(() => {
	const form = document.getElementById("token-form");
	const note = document.getElementById("token-note");
	let token = new URLSearchParams(location.hash.slice(1)).get("token");
	if (token) {
		history.replaceState(null, "", location.pathname + location.search);
		note.textContent = "The token is there. Open the chat.";
	}
	form.addEventListener("submit", (e) => {
		e.preventDefault();
		token = form.elements.token.value.trim();
		form.reset();
		note.textContent = token ? "The token is there. Open the chat." : "That is no token.";
	});
	window.customersToken = async () => {
		if (token) return token;
		note.textContent = "Paste a token first.";
		throw new Error("no token was pasted");
	};
})();
