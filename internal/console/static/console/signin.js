// Who one is: what a person types, what stands behind the address, or what this window remembers.

import { claimsOf } from "/sdk/telle.js";
import { $, write } from "./dom.js";

const remembered = "telle-console";

/** What is wrong with a field of the form, in words. */
const wrong = (field, why) => Object.assign(new Error(why), { field });

/** Makes of what is known who one is: {dealers, adminId, token}. Throws what is wrong. */
function identity(auth, { dealer, admin, token }) {
	if (auth !== "jwt") {
		if (!dealer) throw wrong("dealer", "Say which dealer's chats you want to see.");
		if (!admin) throw wrong("admin", "Say under which id you act.");
		return { dealers: [dealer], adminId: admin };
	}
	const claims = claimsOf(token ?? "");
	if (!claims) throw wrong("token", "That is not a token.");
	if (claims.role !== "admin") throw wrong("token", "That is not the token of an admin.");
	const adminId = claims.adminId === undefined ? admin : String(claims.adminId);
	if (!adminId) throw wrong("admin", "The token does not say who you are: say under which id you act.");
	return { dealers: [claims.dealerId].flat().map(String), adminId, token };
}

/** "a1 of d1" */
export const named = ({ adminId, dealers }) => `${adminId} of ${dealers.join(", ")}`;

/** Whether a link signs in. Somebody else who is signed in here is asked, and stays so if the link is none. */
function agreed(auth, link, before) {
	const nameOf = (said) => {
		try {
			return named(identity(auth, said));
		} catch {
			return null;
		}
	};
	const [now, then] = [link, before].map(nameOf);
	if (then === null || now === then) return true; // if it is wrong, the form says how
	if (now !== null) return confirm(`You are signed in as ${then}. The link signs in as ${now}. Sign in as ${now}?`);
	alert(`The link signs nobody in. You are still signed in as ${then}.`);
	return false;
}

/** What stands behind the address, which must not stay there: it may be a token. */
function fromAddress() {
	const said = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
	if (location.hash) history.replaceState(null, "", location.pathname + location.search);
	return said.token || said.dealer ? { ...said, byLink: true } : null;
}

/** Asks who one is, at once or by the form, and calls enter with it. Returns what asks again. */
export function signIn(auth, enter) {
	const form = $("sign-in-form");
	const show = (why, field = auth === "jwt" ? "token" : "dealer") => {
		sessionStorage.removeItem(remembered);
		$("sign-in").hidden = false;
		write($("sign-in-error"), why);
		form.elements[field].focus();
	};
	const use = (said) => {
		const who = identity(auth, said); // throws
		sessionStorage.setItem(remembered, JSON.stringify(said));
		$("sign-in").hidden = true;
		form.reset();
		enter({ ...who, byLink: said.byLink });
	};
	const attempt = (said) => {
		try {
			use(said);
		} catch (error) {
			for (const name of ["dealer", "admin", "token"]) form.elements[name].value = said[name] ?? ""; // to be mended
			show(error.message, error.field);
		}
	};
	prepare(auth);
	form.addEventListener("submit", (e) => {
		e.preventDefault();
		const value = (name) => form.elements[name].value.trim();
		attempt({ dealer: value("dealer"), admin: value("admin"), token: value("token") });
	});
	const link = fromAddress();
	const before = JSON.parse(sessionStorage.getItem(remembered) ?? "null");
	const said = link && (!before || agreed(auth, link, before)) ? link : before;
	if (said) attempt(said);
	else show("");
	return show;
}

function prepare(auth) {
	$("sign-in-none").hidden = auth === "jwt";
	$("sign-in-jwt").hidden = auth !== "jwt";
	write($("sign-in-hint"), {
		jwt: "This router asks for a token. It stays in this window.",
		none: "This router believes everybody (--auth none). For a first look take dealer d1 and admin a1, and in another window a2.",
	}[auth] ?? "This router lets nobody in: it was started without --auth.");
	write($("admin-hint"), auth === "jwt" ? "Only if the token does not say it." : "Such as a1: chats that you take over bear it.");
}
