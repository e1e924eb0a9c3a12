import assert from "node:assert/strict";
import {readFile} from "node:fs/promises";
import {test} from "node:test";

import {fold} from "../telle.js";

const vectors = JSON.parse(await readFile(new URL("../testdata/fold.json", import.meta.url)));

test("the fold is the router's", async (t) => {
	for (const {name, state, events, want} of vectors) {
		await t.test(name, () => assert.deepEqual(events.reduce(fold, state), want));
	}
});

test("a fold leaves the state before it as it was", () => {
	for (const {state, events} of vectors) {
		const frozen = state && Object.freeze({...state});
		events.reduce((s, e) => Object.freeze(fold(s, e)), frozen);
	}
});
