// The page's entry: who looks, how fresh it is, keys, deeds and their questions. The overview and the playground draw
// themselves; all other views are the server's own HTML, fetched anew when something has changed.
import { ask, HEADERS } from "./api.js";
import { draw, h, patch, tree } from "./dom.js";
import { span } from "./format.js";
import { age, live, pause, refresh, start } from "./live.js";
import { overview } from "./overview.js";
import { playground } from "./playground.js";

const STALE = 5_000; // ms after which the server's HTML is fetched anew, changed or not
const GO = { o: "", j: "/jobs", f: "/failures", w: "/webhooks", p: "/playground", h: "/health", a: "/audit" };
const KEYS = [
  ["?", "this help"], ["/", "search"], ["p", "hold the page still, or let it go on"],
  ["j k", "next, previous row"], ["Enter", "open it"], ["c", "cancel the job that is shown"],
  ["g o j f w p h a", "go to overview, jobs, failures, webhooks, playground, health, audit"],
];

const boot = JSON.parse(document.getElementById("boot").textContent);
const root = document.documentElement;
const main = document.getElementById("main");
const tools = document.getElementById("tools");
const dialog = document.body.appendChild(document.createElement("dialog"));
const speaker = document.body.appendChild(document.createElement("div"));
const view = { "": overview, playground }[boot.view];

// ---------------------------------------------------------------- what is shown

let fetched = performance.now();
let counts = "";
let fetching = false;

function show() {
  drawTools();
  if (view) return draw(main, view.render(boot));
  const seen = JSON.stringify(live.state?.jobs);
  if (seen !== counts || performance.now() - fetched > STALE) reload(seen);
}

async function reload(seen = counts) {
  if (fetching || live.mode !== "live" || document.hidden || performance.now() - fetched < 1_000) return;
  fetching = true;
  try {
    const reply = await fetch(location.href, { headers: HEADERS });
    if (reply.status === 401) location.reload();
    const fresh = new DOMParser().parseFromString(await reply.text(), "text/html").getElementById("main");
    if (reply.ok && fresh) draw(main, [...fresh.childNodes].map(tree));
    counts = seen;
  } catch {
    // The stream says that the gateway is away.
  } finally {
    fetched = performance.now();
    fetching = false;
  }
}

function drawTools() {
  const { mode, why, state } = live;
  const old = state ? `data ${span(Math.max(0, Math.floor(age())))} old`.replace(".0", "") : "no data yet";
  const label = { live: "live", paused: "paused", reconnecting: "reconnecting" }[mode];
  const newer = state && boot.state && state.version !== boot.state.version;
  patch(
    tools,
    newer && h("a", { href: "" }, `foreman is ${state.version} now: reload`),
    h("span", { class: `feed f-${mode}`, title: why || null, id: "feed" }, h("b", {}, label), ` ${old}`),
    h("button", { type: "button", id: "hold", "aria-pressed": String(mode === "paused"), onclick: hold }, mode === "paused" ? "Go on" : "Hold"),
    h("button", { type: "button", "aria-label": "Light or dark", title: "Light or dark", onclick: turn }, "◐"),
    h("button", { type: "button", "aria-label": "Keys", title: "Keys", onclick: help }, "?"),
  );
  if (speaker.dataset.mode !== mode) {
    if (speaker.dataset.mode) say(mode === "live" ? "live again" : label);
    speaker.dataset.mode = mode;
  }
}

const hold = () => pause(live.mode !== "paused");

function turn() {
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
}

// ---------------------------------------------------------------- words

let quiet = 0;

/** Say a sentence: seen for a while, heard once. */
function say(...words) {
  patch(speaker, h("p", {}, words));
  speaker.classList.add("on");
  clearTimeout(quiet);
  quiet = setTimeout(() => speaker.classList.remove("on"), 6_000);
}

/** Ask in a dialog; what was chosen, or null. `more` are nodes of its form. */
function question(text, yes, danger, ...more) {
  const close = (value) => () => dialog.close(value);
  patch(
    dialog,
    h("form", { method: "dialog", key: text }, h("p", { id: "asked" }, text), more,
      h("menu", {}, h("button", { type: "button", onclick: close("") }, yes ? "No" : "Close"),
        yes && h("button", { value: "yes", class: danger ? "danger" : "yes" }, yes))),
  );
  dialog.setAttribute("aria-labelledby", "asked");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((done) => {
    dialog.onclose = () => done(dialog.returnValue ? Object.fromEntries(new FormData(dialog.firstChild)) : null);
  });
}

const help = () =>
  question("Keys", "", false, h("dl", { class: "keys" }, KEYS.map(([key, does]) => [h("dt", {}, key), h("dd", {}, does)])));

// ---------------------------------------------------------------- deeds

async function act(button) {
  const { do: deed, ask: text, said, span: spans } = button.dataset;
  let [method, path] = deed.split(" ");
  if (text) {
    const choice = spans && h("label", {}, "For how long ", h("select", { name: "for" },
      [["", "until somebody resumes it"], ["30m", "30 minutes"], ["2h", "2 hours"], ["8h", "8 hours"]].map(([value, title]) => h("option", { value }, title))));
    const given = await question(text, button.textContent, button.classList.contains("danger"), choice);
    if (!given) return;
    if (given.for) path += `${path.includes("?") ? "&" : "?"}for=${given.for}`;
  }
  button.setAttribute("aria-busy", "true");
  try {
    const answer = await ask(path, method);
    const fresh = method === "POST" && answer?.job_id;
    say(said, fresh && h("a", { href: `/ui/jobs/${fresh}` }, ` ${fresh}`));
  } catch (error) {
    say(`It did not work: ${error.message}`);
  }
  button.removeAttribute("aria-busy");
  fetched = 0;
  await refresh();
  if (!view) reload();
}

async function reveal(details) {
  const place = details.querySelector("pre");
  if (!details.open || place.textContent) return;
  try {
    const found = await ask(details.dataset.load);
    place.textContent = typeof found === "string" ? found : JSON.stringify(found, null, 2);
  } catch (error) {
    place.textContent = error.message;
  }
}

async function curl(button) {
  try {
    const body = await ask(button.dataset.curl);
    const text = (typeof body === "string" ? body : JSON.stringify(body)).replaceAll("'", "'\\''");
    const token = boot.closed ? ` \\\n  -H "Authorization: Bearer $FOREMAN_TOKEN"` : "";
    const line = `curl ${location.origin}${button.dataset.path}${token} \\\n  -d '${text}'`;
    await navigator.clipboard?.writeText(line).then(() => say("Copied."), () => {});
    await question("The call as curl", "", false, h("textarea", { readonly: true, rows: 10, "aria-label": "curl", ".value": line }));
  } catch (error) {
    say(error.message);
  }
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-do], button[data-curl]");
  if (button) (button.dataset.do ? act : curl)(button);
});
document.addEventListener("toggle", (event) => event.target.dataset?.load && reveal(event.target), true);

// ---------------------------------------------------------------- keys

let going = 0;

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.matches("input, select, textarea")) return event.key === "Escape" && event.target.blur();
  const key = event.key;
  if (performance.now() - going < 1_500 && key in GO) location.assign(`/ui${GO[key]}`);
  going = key === "g" ? performance.now() : 0;
  const deed = { "?": help, p: hold, j: () => step(1), k: () => step(-1), "/": search, c: () => document.getElementById("cancel")?.click() }[key];
  if (!deed || (key in GO && going)) return;
  event.preventDefault();
  deed();
});

const search = () => document.querySelector("input[type=search]")?.focus();

function step(by) {
  const rows = [...main.querySelectorAll("tbody tr")].filter((row) => row.querySelector("a, button"));
  const at = rows.indexOf(document.activeElement.closest("tr"));
  rows.at(at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by)))?.querySelector("a, button").focus();
}

// ---------------------------------------------------------------- begin

root.classList.add("js");
const kept = localStorage.getItem("theme");
if (kept) root.dataset.theme = kept;
speaker.id = "speaker";
speaker.setAttribute("role", "status");
if (view) patch(main); // the first paint is told again from here on
view?.begin?.(boot, say);
start(boot.state, show);
document.addEventListener("redraw", show);
setInterval(show, 1_000);
