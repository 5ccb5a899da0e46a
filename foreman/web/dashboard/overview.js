// The first view: what is loaded, what runs and how fast, who waits, for how long still, and why. I draw /ops/state as it
// is and add only how long ago things were.
import { ask } from "./api.js";
import { h, tree } from "./dom.js";
import { colour, count, ms, name, plain, round, shortId, since, span, state } from "./format.js";
import { live, now } from "./live.js";

const POINTS = 60;
const LOOK = 10_000; // ms between two looks at the history

const speeds = new Map(); // job → its last tokens/s
const history = { nodes: [], at: -LOOK, swaps: -1, span: 900 };
const search = { text: "", rows: null };
let drawn = null;
let words = {}; // the server's: why a lane is next, what the columns of the lanes are
let operates = false;
let models = {};

const redraw = () => document.dispatchEvent(new Event("redraw"));

export const overview = {
	begin(boot) {
		operates = boot.role === "operator";
		words = boot.words;
		document.addEventListener("click", ({ target }) => {
			if (!target.dataset.look) return;
			Object.assign(history, { span: target.dataset.look, at: -LOOK });
			look(live.state);
		});
	},
	render(boot) {
		const seen = live.state;
		if (seen !== drawn) learn(seen);
		drawn = seen;
		look(seen);
		const { jobs, ledger: it } = seen;
		return [
			h("div", { class: "head" }, h("h1", {}, "Overview"), health(seen, seen.reasons ?? boot.reasons)),
			tiles("numbers", Object.keys(jobs).map((word) => [h("a", { href: `/ui/jobs?state=${word}` }, word), count(jobs[word]), word])),
			h("section", {}, h("h2", {}, "Targets"), seen.targets.length ? h("div", { class: "cards" }, seen.targets.map(card))
				: none("No worker has announced a target yet.")),
			h("section", {}, h("h2", {}, "Swaps"), tiles("numbers small", [
				["swaps done", count(it.swaps)], ["in order of arrival", count(it.fifo_swaps)],
				["avoided", it.fifo_swaps == null ? "–" : count(it.fifo_swaps - it.swaps)],
				["saved", span(it.seconds_saved)], ["paid for fairness", span(it.seconds_for_fairness)]]),
				h("div", { class: "timeline" }, history.nodes)),
			h("section", {}, lanes(seen)),
		];
	},
};

function learn(seen) {
	const running = seen.targets.flatMap((target) => target.running);
	models = {};
	for (const it of [...seen.targets.flatMap((target) => target.resident), ...running, ...seen.lanes]) if (it.model) models[it.lane] = it.model.replace(/:latest$/, ""); // one name, however callers spell it
	for (const id of speeds.keys()) if (!running.some((job) => job.job_id === id)) speeds.delete(id);
	for (const { job_id: id, tokens_per_second: speed } of running) if (speed) speeds.set(id, [...(speeds.get(id) ?? []), speed].slice(-POINTS));
}

// The history is the server's own drawing, fetched anew when there was a swap, and now and then for its right edge.
function look({ ledger }) {
	if (live.mode !== "live" || performance.now() - history.at < (ledger.swaps === history.swaps ? LOOK : 1_000)) return;
	Object.assign(history, { at: performance.now(), swaps: ledger.swaps });
	ask(`/ui/timeline?span=${history.span}`).then((html) => {
		history.nodes = [...new DOMParser().parseFromString(html, "text/html").body.childNodes].map(tree);
		redraw();
	}, () => {});
}

function health({ store, as_of: at }, reasons) {
	const all = store.status === "ok" ? reasons : [`The store does not answer: ${store.error}`, at ? `What you see is of ${at.slice(11, 19)} UTC.` : "Nothing is known yet: zeros below mean nothing."];
	if (!all.length) return h("p", { class: "ok" }, "✓ all is well");
	return h("div", { class: "bad", key: "bad" }, h("b", {}, "! degraded"), h("ul", {}, all.map((reason) => h("li", {}, plain(reason)))));
}

const tiles = (kind, pairs) =>
	h("dl", { class: kind }, pairs.map(([title, value, n]) => h("div", {}, h("dt", {}, title), h("dd", { "data-n": n }, value))));

const deed = (text, what, asked, said, kind = "", spans = null) =>
	h("button", { type: "button", class: kind, key: text, "data-do": `POST /ops/${what}`, "data-ask": asked, "data-said": said, "data-span": spans }, text);

const hold = (held, path, title, more) =>
	held ? deed("Resume", `${path}/resume`, null, `${title} goes on.`)
		: deed("Pause", `${path}/pause`, `Pause ${title}? What runs ends; nothing ${more} starts.`, `${title} is paused.`, "", "1");

const lane = (key) => name(models[key] ?? key, { title: key });
const none = (text) => h("p", { class: "none" }, text);

function card(target) {
	const { name: title, pause, loading, next } = target;
	const path = `targets/${encodeURIComponent(title)}`;
	return h("article", { class: "card", key: title },
		h("header", {}, h("h3", {}, name(title)), state(target.state),
			pause && h("small", {}, pause.until ? `until ${pause.until.slice(11, 16)} UTC` : "until resumed", pause.unload && ", holds nothing")),
		h("small", {}, `${target.kind} ${target.version ?? ""} · `, name(target.url)),
		target.state === "down" && h("p", { class: "bad" }, `for ${span(since(target.since, now()))}: ${plain(target.error) ?? ""}`),
		h("h4", {}, "Loaded"),
		h("ul", { class: "chips" },
			target.resident.map((it) => h("li", { class: colour(it.lane), key: it.lane }, h("i"), lane(it.lane), h("small", {}, ` ${span(since(it.since, now()))}`))),
			loading && h("li", { class: `${colour(loading)} loads`, key: "loads" }, h("i"), lane(loading), h("small", {}, " loads")),
			!target.resident.length && !loading && h("li", { class: "none" }, "nothing")),
		h("h4", {}, "Runs"),
		target.running.length ? h("ul", { class: "runs" }, target.running.map(run)) : none("nothing"),
		next && h("p", {}, "Next ", h("b", {}, lane(next.lane)), `: ${words.why[next.reason] ?? next.reason}`),
		operates && h("p", { class: "acts" }, hold(pause, path, title, "new"),
			target.kind === "ollama" && !pause?.unload && deed("Free this GPU", `${path}/pause?unload=true`, `Free ${title}? What runs ends, all that foreman loaded is unloaded and stays out.`, `${title} is being freed.`, "", "1")));
}

function run(job) {
	const speed = job.tokens_per_second;
	const reads = job.state === "working" && job.slot === "drain" && !job.tokens;
	return h("li", { class: colour(job.lane), key: job.job_id },
		h("i"), lane(job.lane), state(job.state, reads ? "prefill" : job.state), h("span", { class: "n" }, span(since(job.since, now()))),
		h("a", { class: "id", href: `/ui/jobs/${job.job_id}`, title: job.endpoint }, shortId(job.job_id)),
		job.caller && name(job.caller, { class: "name soft who" }),
		h("span", { class: "speed" }, spark(speeds.get(job.job_id)), speed ? [h("b", {}, round(speed)), " tok/s"] : "", job.tokens ? h("small", {}, ` ${count(job.tokens)} tokens`) : ""));
}

function spark(values) {
	if (!values || values.length < 3) return null;
	const top = Math.max(...values);
	const points = values.map((value, at) => `${at},${(15 - (14 * value) / top).toFixed(1)}`).join(" ");
	return h("svg", { class: "spark", width: POINTS, height: 16, "aria-hidden": "true" }, h("polyline", { points }));
}

function lanes(seen) {
	const text = (it) => JSON.stringify([it.model, it.lane, it.slot, it.recent?.callers]).toLowerCase();
	const found = search.text ? (search.rows ?? seen.lanes).filter((it) => text(it).includes(search.text.toLowerCase())) : seen.lanes;
	const { lanes: more, jobs } = seen.lanes_more ?? {};
	return [
		h("div", { class: "head" }, h("h2", {}, "Lanes"), (seen.lanes.length > 5 || search.text) &&
			h("input", { type: "search", placeholder: "model, caller …", "aria-label": "Search lanes", oninput: ({ target }) => seek(target.value, more) })),
		found.length
			? h("div", { class: "wide", role: "region", "aria-label": "Lanes", tabindex: 0 }, h("table", {},
					h("thead", {}, h("tr", {}, words.lanes.map(([title, kind, why]) => h("th", { scope: "col", class: kind, title: why }, title)))), h("tbody", {}, found.map(row))))
			: none(search.text ? "No lane fits." : "Nothing is waiting."),
		more > 0 && none(`${count(seen.lanes.length)} lanes are shown; ${count(more)} more with ${count(jobs)} jobs: search for them.`),
	];
}

function seek(text, more) {
	Object.assign(search, { text, rows: null });
	if (more > 0 && text) ask(`/ops/lanes?search=${encodeURIComponent(text)}`).then((it) => { if (search.text === text) redraw((search.rows = it.lanes)); }, () => {});
	redraw();
}

function row(it) {
	const path = `lanes/${encodeURIComponent(it.lane)}`;
	const { recent, lane: key } = it;
	const options = key.split("?")[1];
	const cell = (value, n) => h("td", { class: "n", "data-n": n }, value);
	return h("tr", { key: `${it.slot} ${it.lane}` },
		h("th", { scope: "row", class: colour(it.lane) }, h("i"), name(models[key] ?? it.model, { title: `${it.model}\n${it.lane}` }), h("small", {}, options && ` ${options}`, it.slot !== "drain" && ` ${it.slot}`)),
		cell(count(it.depth), "depth"), cell(it.depth ? waits(it) : "–"), cell(count(it.running), "running"), cell(span(it.eta_seconds)), cell(pair(recent?.ttft_ms)), cell(pair(recent?.tpot_ms)),
		cell(recent?.failed ? h("a", { class: "bad", href: `/ui/jobs?state=failed&model=${encodeURIComponent(it.model)}` }, count(recent.failed)) : count(recent?.failed)),
		h("td", {}, recent?.callers.length ? recent.callers.map((one) => [name(one), " "]) : "–"),
		h("td", { class: "acts" }, it.paused ? [state("paused"), it.paused_until && h("small", {}, ` until ${it.paused_until.slice(11, 16)} UTC`)] : !operates && "open", operates && [hold(it.paused, path, it.model, "of this lane"),
			it.depth > 0 && deed("Clear", `${path}/clear`, `Cancel what waits in ${it.model} (${count(it.depth)} now)?`, `${it.model} is cleared.`, "danger")]));
}

function waits({ oldest_since: at, oldest_wait_seconds: told, bound_seconds: bound }) {
	const seconds = at ? since(at, now()) : told;
	if (bound == null) return span(seconds);
	const width = Math.min(1, seconds / (bound || 1)) * 40;
	return [
		h("svg", { class: "bar", width: 40, height: 5, "aria-hidden": "true" }, h("rect", { width: 40, height: 5, rx: 2.5 }), h("rect", { class: width > 32 ? "high" : "low", width, height: 5, rx: 2.5 })),
		h("span", { class: seconds > bound ? "bad" : null }, `${span(seconds)} of ${span(bound)}`)];
}

const pair = (it) => (it?.p50 == null ? "–" : `${ms(it.p50)} / ${ms(it.p95)}`);
