// The page's one stream, /ops/events, while it is looked at. I keep the last snapshot, connect again by myself, and poll
// where a proxy holds the stream back.
import { ask } from "./api.js";

const SILENT = 8_000; // ms: it speaks each 2 s
const POLL = 2_000;
const PAUSES = [500, 1_000, 2_000, 5_000];

/** The last snapshot, when it came, and how: connecting, live, reconnecting, paused. */
export const live = { state: null, at: 0, mode: "connecting", why: "" };

let source = null;
let timer = 0;
let failures = 0;
let told = () => {};
let frozen = 0;

/** The server's time in ms; it stands still while paused. */
export const now = () => Date.parse(live.state.now) + (live.mode === "paused" ? frozen : performance.now()) - live.at;

/** Seconds since the last word of the gateway. */
export const age = () => (performance.now() - live.at) / 1000;

/** Begin; `tell` is called at each snapshot and each change of the way it comes. */
export function start(first, tell) {
	told = tell;
	if (first) take(first);
	addEventListener("online", connect);
	document.addEventListener("visibilitychange", () => (document.hidden ? stop() : connect()));
	if (!document.hidden) connect();
}

/** Hold what is shown, or go on. */
export function pause(on) {
	if (on === (live.mode === "paused")) return;
	frozen = performance.now();
	stop();
	live.mode = on ? "paused" : "reconnecting";
	if (on) told();
	else connect();
}

/** What somebody did shall show at once. */
export const refresh = () => look().then(take, () => {});

// After a sleep a connection may be dead without a word.
const look = () => ask("/ops/state", "GET", AbortSignal.timeout(SILENT));

function take(state) {
	live.state = state;
	live.at = performance.now();
	told();
}

function stop() {
	source?.close();
	source = null;
	clearTimeout(timer);
}

function connect() {
	if (live.mode === "paused") return;
	stop();
	source = new EventSource("/ops/events");
	source.onerror = () => lost();
	source.addEventListener("leaving", () => lost("the gateway restarts"));
	source.addEventListener("snapshot", (event) => arrived(JSON.parse(event.data)));
	source.addEventListener("change", (event) => {
		const state = { ...live.state, ...JSON.parse(event.data) };
		for (const { running } of state.targets) {
			for (const job of running) [job.tokens, job.tokens_per_second] = state.tokens?.[job.job_id] ?? [job.tokens, job.tokens_per_second];
		}
		delete state.tokens;
		arrived(state);
	});
	watch();
}

function arrived(state) {
	failures = 0;
	live.mode = "live";
	live.why = "";
	watch();
	take(state);
}

function watch() {
	clearTimeout(timer);
	timer = setTimeout(() => {
		live.mode = "reconnecting";
		told();
		inquire(true);
	}, SILENT);
}

function lost(why = "") {
	if (live.mode === "paused") return;
	stop();
	live.mode = "reconnecting";
	live.why = why;
	told();
	timer = setTimeout(inquire, PAUSES[Math.min(failures++, PAUSES.length - 1)] * (0.8 + 0.4 * Math.random()));
}

// An EventSource does not say why it failed; a plain question does, and is answered while the stream is held back.
async function inquire(held) {
	try {
		const state = await look();
		if (live.mode === "paused" || document.hidden) return;
		if (held) {
			Object.assign(live, { mode: "live", why: "asked for each 2 s: something holds the stream back" });
			clearTimeout(timer);
			timer = setTimeout(inquire, POLL, true);
		}
		take(state);
		if (!held) connect();
	} catch (error) {
		if (error.status === 401) location.reload();
		else lost(error.status ? error.message : "");
	}
}
