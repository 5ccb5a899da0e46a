// The page's entry: how fresh it is, keys, deeds and their questions. Overview and playground draw themselves; the
// rest is the server's own HTML, fetched anew.
import { ask, HEADERS } from "./api.js";
import { draw, h, patch, tree } from "./dom.js";
import { span } from "./format.js";
import { age, live, pause, refresh, start } from "./live.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";

const STALE = 5_000; // ms after which the server's HTML is fetched anew, changed or not

const $ = (id) => document.getElementById(id);
const boot = JSON.parse($("boot").textContent);
const root = document.documentElement;
const main = $("main");
const view = { "": overview, playground }[boot.view];

let fetched = performance.now();
let counts = "";
let fetching = false;
let mode = live.mode;

function show() {
	drawTools();
	if (view) return draw(main, view.render(boot));
	const seen = JSON.stringify(live.state?.jobs);
	if (seen !== counts || performance.now() - fetched > STALE) reload(seen);
}

async function reload(seen = counts) {
	if (fetching || live.mode !== "live" || document.hidden || performance.now() - fetched < 3_000) return;
	fetching = true;
	try {
		const reply = await fetch(location.href, { headers: HEADERS });
		if (reply.status === 401) location.reload();
		const fresh = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("main");
		if (fresh) draw(main, [...fresh.childNodes].map(tree));
		counts = seen;
	} catch {} // the stream says that the gateway is away
	fetched = performance.now();
	fetching = false;
}

function drawTools() {
	const { state, why } = live;
	const held = live.mode === "paused";
	const away = live.mode === "live" && state.store.status !== "ok"; // the numbers are old
	const old = state && age() + (state.as_of ? (Date.parse(state.now) - Date.parse(state.as_of)) / 1000 : 0);
	const newer = state && boot.version !== state.version;
	patch($("feed"),
		newer && h("a", { href: "" }, `reload: foreman is ${state.version} now`),
		h("b", { class: `f-${away ? "reconnecting" : live.mode}`, title: why || null }, away ? "store away" : live.mode),
		state && (state.as_of || !away) ? ` data ${old < 60 ? `${Math.floor(old)} s` : span(old)} old` : " no data yet");
	patch($("hold"), held ? "Go on" : "Hold");
	if (mode !== live.mode && mode !== "connecting") say(live.mode === "live" ? "live again" : live.mode);
	mode = live.mode;
}

const hold = () => pause(live.mode !== "paused");

function turn() {
	const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
	localStorage.setItem("theme", (root.dataset.theme = dark ? "light" : "dark"));
}

let quiet = 0;

/** Seen for a while, heard once. */
function say(...words) {
	patch($("speaker"), h("p", {}, words));
	$("speaker").className = "on";
	clearTimeout(quiet);
	quiet = setTimeout(() => { $("speaker").className = ""; }, 6_000);
}

/** Ask in a dialog: what its form holds, or null. */
function question(text, yes, danger, spans, shown) {
	const dialog = $("ask");
	const [words, box, label, , button] = dialog.querySelectorAll("p, textarea, label, button");
	patch(words, text);
	box.hidden = shown === undefined;
	box.value = shown ?? "";
	label.hidden = !spans;
	button.hidden = !yes;
	button.className = danger ? "danger" : "yes";
	patch(button, yes ?? "");
	dialog.returnValue = "";
	dialog.showModal();
	return new Promise((done) => {
		// the word of an earlier closing may come late
		dialog.onclose = () => dialog.open || done(dialog.returnValue ? Object.fromEntries(new FormData(dialog.firstChild)) : null);
	});
}

async function act(button) {
	if (button.ariaBusy) return;
	const { do: deed, ask: text, said, span: spans } = button.dataset;
	let [method, path] = deed.split(" ");
	if (text) {
		const given = await question(text, button.textContent, button.classList.contains("danger"), spans);
		if (!given) return;
		if (spans && given.for) path += `${path.includes("?") ? "&" : "?"}for=${given.for}`;
	}
	button.setAttribute("aria-busy", "true");
	try {
		const answer = await ask(path, method);
		const fresh = method === "POST" && answer.job_id;
		const [told, nothing] = said.split("|"); // the latter where nothing had to be done
		say((answer.changed === false || answer.status === "waiting" ? nothing : told).replace(/{(\w+)}/g, (_, name) => answer[name]), fresh && h("a", { href: `/ui/jobs/${fresh}` }, ` ${fresh}`));
	} catch (error) {
		say(`It did not work: ${error.message}`);
	}
	button.removeAttribute("aria-busy");
	fetched = -STALE;
	await refresh();
	if (!view) reload();
}

async function reveal(details) {
	const place = details.querySelector("pre");
	if (details.open && !place.textContent) place.textContent = await ask(details.dataset.load).then((it) => (it.trim ? it : JSON.stringify(it, null, 2)), (error) => error.message);
}

async function curl(button) {
	try {
		const line = (await ask(button.dataset.curl)).replace("ORIGIN", location.origin);
		const copied = await navigator.clipboard?.writeText(line).then(() => true, () => false);
		await question(copied ? "Copied:" : "The call as curl:", null, false, null, line);
	} catch (error) {
		say(error.message);
	}
}

document.addEventListener("click", (event) => {
	const button = event.target.closest("button[data-do], button[data-curl]");
	if (button) (button.dataset.do ? act : curl)(button);
});
document.addEventListener("toggle", (event) => event.target.dataset?.load && reveal(event.target), true);

const help = () => $("help").showModal();
const search = () => document.querySelector("input[type=search]")?.focus();

function step(by) {
	const rows = [...main.querySelectorAll("tbody tr")].filter((row) => row.querySelector("a, button"));
	const at = rows.indexOf(document.activeElement.closest("tr"));
	rows[at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))]?.querySelector("a, button").focus();
}

let going = 0;
const deeds = { "?": help, p: hold, j: () => step(1), k: () => step(-1), "/": search, c: () => $("cancel")?.click() };

document.addEventListener("keydown", (event) => {
	const { key, target } = event;
	if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
	if (target.matches("input, select, textarea")) return key === "Escape" && target.blur();
	const way = performance.now() < going && [...document.querySelectorAll("nav a")].find((link) => link.text[0].toLowerCase() === key);
	if (way) return way.click();
	going = key === "g" ? performance.now() + 1_500 : 0;
	if (!deeds[key]) return;
	event.preventDefault();
	deeds[key]();
});

root.classList.add("js");
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest" });
const theme = localStorage.getItem("theme");
if (theme) root.dataset.theme = theme;
Object.assign($("hold"), { onclick: hold }).nextSibling.onclick = turn;
$("tools").lastChild.onclick = help;
if (view) patch(main); // the first paint is over
view?.begin(boot);
start(boot.state, show);
document.addEventListener("redraw", show);
setInterval(show, 1_000);
