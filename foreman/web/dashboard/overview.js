// The first view: what is loaded, what runs and how fast, who waits, for how long still, and why. I draw /ops/state as it
// is and add only how long ago things were.
import { ask } from "./api.js";
import { h, tree } from "./dom.js";
import { colour, count, ms, name, plain, shortId, since, span, state } from "./format.js";
import { live, now } from "./live.js";

const POINTS = 40;
const LOOK = 10_000; // ms between two looks at the history

const speeds = new Map(); // job → its last tokens/s
const history = { nodes: [], at: -LOOK, swaps: -1, span: 900 };
const search = { text: "", rows: null };
let drawn = null;
let words = {}; // the server's: why a lane is next, the columns of the lanes, what the buttons do
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
	render() {
		const seen = live.state;
		if (seen !== drawn) learn(seen);
		drawn = seen;
		look(seen);
		const { jobs, ledger: it } = seen;
		return [
			h("div", { class: "head" }, h("h1", {}, "Overview"), health(seen.reasons)),
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
	for (const it of [...seen.targets.flatMap((target) => target.resident), ...running, ...seen.lanes]) if (it.model) models[it.lane] = it.model.replace(/:latest$/, "");
	for (const id of speeds.keys()) if (!running.some((job) => job.job_id === id)) speeds.delete(id);
	for (const { job_id: id, tokens_per_second: speed } of running) if (speed) speeds.set(id, [...(speeds.get(id) ?? []), speed].slice(-POINTS));
}

// The history is the server's own drawing, fetched anew after a swap, and now and then for its right edge.
function look({ ledger }) {
	if (live.mode !== "live" || performance.now() - history.at < (ledger.swaps === history.swaps ? LOOK : 1_000)) return;
	Object.assign(history, { at: performance.now(), swaps: ledger.swaps });
	ask(`/ui/timeline?span=${history.span}`).then((html) => {
		history.nodes = [...new DOMParser().parseFromString(html, "text/html").body.childNodes].map(tree);
		redraw();
	}, () => {});
}

const list = (reasons) => h("ul", {}, reasons.map((reason) => h("li", {}, plain(reason))));

function health(reasons) {
	if (!reasons.length) return h("p", { class: "ok" }, "✓ all is well");
	return h("div", { class: "bad", key: "bad" }, h("b", {}, "! degraded"), list(reasons.slice(0, 4)),
		reasons[4] && h("details", {}, h("summary", {}, `${reasons.length - 4} more`), list(reasons.slice(4))));
}

const tiles = (kind, pairs) =>
	h("dl", { class: kind }, pairs.map(([title, value, n]) => h("div", {}, h("dt", {}, title), h("dd", { "data-n": n }, value))));

/** A button of `words.deeds`; what it is done to stands where they say {}. */
function deed(what, path, title, more) {
	const [text, verb, asked, said, kind, spans] = words.deeds[what].map((it) => it?.replace("{n}", more).replace("{}", () => plain(title)));
	return h("button", { type: "button", class: kind, key: text, "data-do": `POST /ops/${path}/${verb}`, "data-ask": asked, "data-said": said, "data-span": spans }, text);
}

const lane = (key) => name(models[key] ?? key, { title: key });
const whole = (key) => [lane(key), options(key)];
const options = (key) => h("small", {}, ` ${key.split("?")[1] ?? ""}`);
const ago = (iso) => h("small", { title: iso }, ` ${span(since(iso, now()))}`);
const ends = (iso) => h("small", { title: iso }, iso ? ` for ${span((Date.parse(iso) - now()) / 1000)} more` : " until resumed");
const none = (text) => h("p", { class: "none" }, text);

function card(target) {
	const { name: title, pause, loading, next, state: how } = target;
	const path = `targets/${encodeURIComponent(title)}`;
	const busy = target.running.length;
	return h("article", { class: "card", key: title },
		h("header", {}, h("h3", {}, name(title)), state(how),
			pause && [ends(pause.until), pause.unload && h("small", {}, "holds nothing")]),
		h("small", {}, `${target.kind} ${target.version ?? ""} · `, name(target.url)),
		how === "down" && h("p", { class: "bad" }, `for ${span(since(target.since, now()))}: ${plain(target.error) ?? ""}`),
		(busy || how !== "down") && [h("h4", {}, "Loaded"), h("ul", { class: "chips" },
			target.resident.map((it) => h("li", { class: colour(it.lane), key: it.lane }, h("i"), whole(it.lane), ago(it.since))),
			loading && h("li", { class: `${colour(loading)} loads`, key: "loads" }, h("i"), whole(loading), h("small", {}, " loads")),
			!target.resident.length && !loading && h("li", { class: "none" }, target.kind === "ollama" ? "nothing" : "all that it serves")),
		h("h4", {}, "Runs"),
		busy ? h("ul", { class: "runs" }, target.running.map(run)) : none("nothing")],
		how === "up" && next && h("p", {}, "Next ", h("b", {}, whole(next.lane)), `: ${words.why[next.reason] ?? next.reason}`),
		operates && h("p", { class: "acts" }, deed(pause ? "resume" : "pause", path, title),
			target.kind === "ollama" && !pause?.unload && deed("free", path, title)));
}

function run(job) {
	const speed = job.tokens_per_second;
	const reads = job.state === "working" && job.slot === "drain" && !job.tokens;
	return h("li", { class: colour(job.lane), key: job.job_id },
		h("i"), lane(job.lane), h("div", {}, spark(speeds.get(job.job_id)), state(job.state, reads ? "prefill" : job.state)), h("span", { class: "n", title: job.since }, span(since(job.since, now()))),
		h("p", {}, h("a", { class: "id", href: `/ui/jobs/${job.job_id}`, title: job.endpoint }, shortId(job.job_id)),
			job.caller && name(job.caller, { class: "name soft" }),
			h("span", {}, speed ? [h("b", {}, speed.toFixed(1)), " tok/s"] : "", job.tokens ? h("small", {}, ` ${count(job.tokens)} tokens`) : "")));
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
	const cell = (value, n) => h("td", { class: "n", "data-n": n }, value);
	return h("tr", { key: `${it.slot} ${it.lane}` },
		h("th", { scope: "row", class: colour(it.lane) }, h("i"), name(models[key] ?? it.model, { title: `${it.model}\n${it.lane}` }), options(key), it.slot !== "drain" && h("small", {}, ` ${it.slot}`)),
		cell(count(it.depth), "depth"), cell(it.depth ? waits(it) : "–"), cell(count(it.running), "running"), cell(span(it.eta_seconds)), cell(pair(recent?.ttft_ms)), cell(pair(recent?.tpot_ms)),
		cell(recent?.failed ? h("a", { class: "bad", href: `/ui/jobs?state=failed&model=${encodeURIComponent(it.model)}` }, count(recent.failed)) : count(recent?.failed)),
		h("td", {}, recent?.callers.length ? recent.callers.map((one) => [name(one), " "]) : "–"),
		h("td", { class: "acts" }, it.paused ? [state("paused"), ends(it.paused_until)] : !operates && "open", operates && [deed(it.paused ? "resume" : "hold", path, it.model),
			it.depth > 0 && deed("clear", path, it.model, count(it.depth))]));
}

function waits({ oldest_since: at, oldest_wait_seconds: told, bound_seconds: bound }) {
	const seconds = at ? since(at, now()) : told;
	if (bound == null) return span(seconds);
	const width = Math.min(1, seconds / (bound || 1)) * 40;
	return [
		h("span", { class: seconds > bound ? "bad" : null, title: at }, `${span(seconds)} of ${span(bound)}`),
		h("svg", { class: "bar", width: 40, height: 5, "aria-hidden": "true" }, h("rect", { width: 40, height: 5, rx: 2.5 }), h("rect", { class: width > 32 ? "high" : "low", width, height: 5, rx: 2.5 }))];
}

const pair = (it) => (it?.p50 == null ? "–" : `${ms(it.p50)} / ${ms(it.p95)}`.replace(/^([\d.]+) (m?s)(?= .* \2$)/, "$1"));
