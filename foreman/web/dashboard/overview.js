// The first view: what is loaded, what runs and how fast, who waits, for how long still, and why. I draw the last
// snapshot of /ops/state as it is; the only thing I add is how long ago things were.
import { ask } from "./api.js";
import { h, tree } from "./dom.js";
import { colour, count, ms, name, round, shortId, since, span, state } from "./format.js";
import { live, now } from "./live.js";

const ROWS = 200;
const POINTS = 60;
const TIMELINE = 10_000; // ms between two looks at the history
const WHY = {
  room: "there is a free place", empty: "nothing else is left", due: "its turn has come", class: "a higher class waits",
  pin: "it is pinned",
};
const STATES = ["queued", "loading", "working", "done", "failed", "cancelled"];

const speeds = new Map(); // job → its last tokens/s
let drawn = null;
let wanted = "";
let operates = false;
let models = {};
let history = { nodes: [], at: -TIMELINE, swaps: -1, span: 900 };

export const overview = {
  begin(boot) {
    operates = boot.role === "operator";
    wanted = new URLSearchParams(location.search).get("lane") ?? "";
    document.addEventListener("click", ({ target }) => {
      if (!target.dataset?.look) return;
      history = { ...history, span: target.dataset.look, at: -TIMELINE };
      look(live.state);
    });
  },
  render(boot) {
    const seen = live.state;
    if (!seen) return h("p", { class: "none" }, "Waiting for the first word of the gateway …");
    if (seen !== drawn) learn(seen);
    drawn = seen;
    look(seen);
    return [
      h("div", { class: "head" }, h("h1", {}, "Overview"), health(seen, seen.reasons ?? boot.reasons ?? [])),
      numbers(seen),
      h("section", {}, h("h2", {}, "Targets"), targets(seen.targets)),
      h("section", { id: "history" }, h("h2", {}, "Swaps"), ledger(seen.ledger), h("div", { class: "timeline" }, history.nodes)),
      h("section", {}, lanes(seen.lanes)),
    ];
  },
};

function learn(seen) {
  models = {};
  for (const held of [...seen.targets.flatMap((target) => [...target.resident, ...target.running]), ...seen.lanes]) {
    if (held.model) models[held.lane] = held.model;
  }
  const running = seen.targets.flatMap((target) => target.running);
  for (const id of speeds.keys()) if (!running.some((job) => job.job_id === id)) speeds.delete(id);
  for (const { job_id: id, tokens_per_second: speed } of running) {
    if (speed != null) speeds.set(id, [...(speeds.get(id) ?? []), speed].slice(-POINTS));
  }
}

// The history is the server's own drawing, fetched anew when there was a swap, and now and then for its right edge.
function look(seen) {
  const due = performance.now() - history.at > (seen.ledger.swaps === history.swaps ? TIMELINE : 1_000);
  if (!due || live.mode !== "live") return;
  Object.assign(history, { at: performance.now(), swaps: seen.ledger.swaps });
  ask(`/ui/timeline?span=${history.span}`).then((html) => {
    history.nodes = [...new DOMParser().parseFromString(html, "text/html").body.childNodes].map(tree);
    document.dispatchEvent(new Event("redraw"));
  }, () => {});
}

function health(seen, reasons) {
  const all = seen.store.status === "ok" ? reasons : [`The store does not answer: ${seen.store.error ?? "no word"}. Numbers below are the last known.`];
  if (!all.length) return h("p", { class: "ok" }, "✓ all is well");
  return h("div", { class: "bad", key: "bad" }, h("b", {}, "! degraded"), h("ul", {}, all.map((reason) => h("li", {}, reason))));
}

const numbers = ({ jobs, store }) =>
  h("dl", { class: "numbers" }, STATES.map((word) =>
    h("div", { class: `of-${word}` }, h("dt", {}, h("a", { href: `/ui/jobs?state=${word}` }, word)),
      h("dd", { "data-n": word }, store.status === "ok" ? count(jobs[word]) : "–"))));

// ---------------------------------------------------------------- targets

function targets(all) {
  if (!all.length) return h("p", { class: "none" }, "No worker has announced a target yet: start `foreman serve --role worker`, or look at `foreman doctor`.");
  return h("div", { class: "cards" }, all.map(card));
}

function card(target) {
  const path = `/ops/targets/${encodeURIComponent(target.name)}`;
  const held = target.state === "paused";
  return h("article", { class: `card t-${target.state}`, key: target.name },
    h("header", {}, h("h3", {}, name(target.name)), state(target.state),
      held && target.pause?.until && h("small", {}, `until ${target.pause.until.slice(11, 16)} UTC`)),
    h("p", { class: "soft" }, target.kind, target.version ? ` ${target.version}` : "", " · ", name(target.url)),
    target.error && target.state !== "up" && h("p", { class: "bad" }, `since ${span(since(target.since, now()))}: ${target.error}`),
    h("h4", {}, "Loaded"),
    h("ul", { class: "chips" },
      target.resident.map((it) => h("li", { class: colour(it.lane), key: it.lane }, h("i"), lane(it.lane), h("small", {}, ` ${span(since(it.since, now()))}`))),
      target.loading && h("li", { class: `${colour(target.loading)} loads`, key: "loads" }, h("i"), lane(target.loading), h("small", {}, " loads")),
      !target.resident.length && !target.loading && h("li", { class: "none", key: "none" }, "nothing")),
    h("h4", {}, "Runs"),
    target.running.length ? h("ul", { class: "runs" }, target.running.map(run)) : h("p", { class: "none" }, "nothing"),
    target.next && h("p", { class: "next" }, "Next ", h("b", {}, lane(target.next.lane)), `: ${WHY[target.next.reason] ?? target.next.reason ?? ""}`),
    operates && h("p", { class: "acts" },
      held
        ? deed("Resume", `POST ${path}/resume`, null, `${target.name} goes on.`)
        : [deed("Pause", `POST ${path}/pause`, `Pause ${target.name}? What runs ends; nothing new starts.`, `${target.name} is paused.`, { "data-span": "1" }),
           target.kind === "ollama" && deed("Free this GPU", `POST ${path}/pause?unload=true`, `Free ${target.name}? What runs ends, all that foreman loaded is unloaded and stays out.`, `${target.name} is being freed.`, { "data-span": "1" })]));
}

function run(job) {
  const speed = job.tokens_per_second;
  return h("li", { class: colour(job.lane), key: job.job_id },
    h("i"), lane(job.lane), state(job.state, job.phase ?? job.state),
    h("span", { class: "n" }, span(since(job.since, now()))),
    h("a", { class: "id", href: `/ui/jobs/${job.job_id}`, title: `${job.endpoint} ${job.job_id}` }, shortId(job.job_id)),
    job.caller && name(job.caller, { class: "soft name" }),
    h("span", { class: "speed" }, spark(speeds.get(job.job_id)), h("b", {}, speed == null ? "" : round(speed)), speed == null ? "" : " tok/s",
      job.tokens == null ? "" : h("small", {}, ` ${count(job.tokens)} tokens`)));
}

function spark(values) {
  if (!values || values.length < 3) return null;
  const top = Math.max(...values) || 1;
  const points = values.map((value, at) => `${round((at * 60) / (POINTS - 1))},${(15 - (14 * value) / top).toFixed(1)}`).join(" ");
  return h("svg", { class: "spark", viewBox: "0 0 60 16", width: 60, height: 16, "aria-hidden": "true" }, h("polyline", { points }));
}

const lane = (key) => name(models[key] ?? key, { title: key });

const deed = (text, what, ask, said, more) =>
  h("button", { type: "button", class: "act", "data-do": what, "data-ask": ask, "data-said": said, key: text, ...more }, text);

// ---------------------------------------------------------------- swaps

function ledger(it) {
  const avoided = it.fifo_swaps == null ? null : it.fifo_swaps - it.swaps;
  return h("dl", { class: "numbers small" },
    [["swaps done", count(it.swaps)], ["in order of arrival", count(it.fifo_swaps)], ["avoided", count(avoided)],
      ["saved", span(it.seconds_saved)], ["paid for fairness", span(it.seconds_for_fairness)]]
      .map(([title, value]) => h("div", {}, h("dt", {}, title), h("dd", {}, value))));
}

// ---------------------------------------------------------------- lanes

function lanes(all) {
  const words = wanted.toLowerCase().split(/\s+/).filter(Boolean);
  const text = (it) => `${it.model} ${it.lane} ${it.slot} ${(it.callers ?? []).map((one) => one.name ?? one).join(" ")}`.toLowerCase();
  const found = words.length ? all.filter((it) => words.every((word) => text(it).includes(word))) : all;
  const more = live.state.lanes_total > all.length ? live.state.lanes_total : found.length;
  return [
    h("div", { class: "head" }, h("h2", {}, "Lanes"),
      all.length > 7 || wanted
        ? h("input", { type: "search", placeholder: "model, caller …", "aria-label": "Search lanes", ".value": wanted, oninput: (event) => { wanted = event.target.value; document.dispatchEvent(new Event("redraw")); } })
        : null),
    found.length
      ? h("div", { class: "wide", role: "region", "aria-label": "Lanes", tabindex: 0 }, h("table", { class: "lanes" },
          h("thead", {}, h("tr", {}, HEADS.map(([title, kind, why]) => h("th", { scope: "col", class: kind, title: why }, title)))),
          h("tbody", {}, found.slice(0, ROWS).map(row))))
      : h("p", { class: "none" }, all.length ? "No lane fits." : "Nothing is waiting."),
    more > ROWS && h("p", { class: "none" }, `${ROWS} of ${count(more)} lanes are shown: search for the others.`),
  ];
}

const HEADS = [
  ["Lane"], ["Waiting", "n"], ["Oldest wait", "n", "beside the longest it may wait for its turn"], ["Running", "n"], ["ETA", "n", "until the last of it works"],
  ["TTFT", "n", "time to the first token: median, 95 of 100"], ["TPOT", "n", "time per token from there on: median, 95 of 100"],
  ["Errors", "n"], ["Callers"], ["State"],
];

function row(it) {
  const path = `/ops/lanes/${encodeURIComponent(it.lane)}`;
  const options = it.lane.split("?")[1];
  return h("tr", { key: `${it.slot} ${it.lane}`, class: it.depth || it.running ? "" : "idle" },
    h("th", { scope: "row", class: colour(it.lane) }, h("i"), name(it.model, { title: `${it.model}\n${it.lane}` }), options && h("small", {}, ` ${options}`), it.slot !== "drain" && h("small", {}, ` ${it.slot}`)),
    h("td", { class: "n", "data-n": "depth" }, count(it.depth)),
    h("td", { class: "n" }, it.depth ? [bar(it.oldest_wait_seconds, it.bound_seconds), waited(it)] : "–"),
    h("td", { class: "n", "data-n": "running" }, count(it.running)),
    h("td", { class: "n" }, span(it.eta_seconds)),
    h("td", { class: "n" }, pair(it.ttft_ms)), h("td", { class: "n" }, pair(it.tpot_ms)),
    h("td", { class: "n" }, it.errors ? h("a", { class: "bad", href: `/ui/jobs?state=failed&model=${encodeURIComponent(it.model)}` }, count(it.errors)) : count(it.errors)),
    h("td", {}, callers(it.callers)),
    h("td", { class: "acts" }, it.paused ? state("paused") : "open", operates && [
      it.paused ? deed("Resume", `POST ${path}/resume`, null, `${it.model} goes on.`)
        : deed("Pause", `POST ${path}/pause`, `Pause ${it.model}? What runs ends; nothing of this lane starts.`, `${it.model} is paused.`, { "data-span": "1" }),
      it.depth > 0 && deed("Clear", `POST ${path}/clear`, `Cancel what waits in ${it.model} (${count(it.depth)} now)?`, `${it.model} is cleared.`, { class: "act danger" })]));
}

const waited = (it) => {
  const seconds = it.oldest_wait_seconds + Math.max(0, (now() - Date.parse(live.state.now)) / 1000);
  return it.bound_seconds == null ? span(seconds) : h("span", { class: seconds > it.bound_seconds ? "bad" : "" }, `${span(seconds)} of ${span(it.bound_seconds)}`);
};

function bar(value, bound) {
  if (bound == null) return null;
  const width = Math.min(1, value / (bound || 1)) * 40;
  return h("svg", { class: "bar", viewBox: "0 0 40 5", width: 40, height: 5, "aria-hidden": "true" },
    h("rect", { width: 40, height: 5, rx: 2.5 }), h("rect", { class: width > 32 ? "high" : "low", width, height: 5, rx: 2.5 }));
}

const pair = (it) => (it?.p50 == null ? "–" : `${ms(it.p50)} / ${ms(it.p95)}`);

const callers = (all) =>
  all?.length ? all.slice(0, 4).map((one, at) => [at ? ", " : "", name(one.name ?? one), one.count ? h("small", {}, ` ${count(one.count)}`) : ""]) : "–";
