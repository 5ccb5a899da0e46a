// A chat with any model, to see how it waits and answers.
import { HEADERS } from "./api.js";
import { h } from "./dom.js";
import { count, ms, span } from "./format.js";
import { Accumulator, chat } from "./foreman-client.js";

const talk = [];
let model = null;
let draft = "";
let turn = null;
let again = () => {};
let says = {}; // the server's words for states

function told({ state, position, eta, target }) {
	const words = state === "waiting" ? `waits for ${target ?? "a target"}, which is down` : says[state] ?? state;
	return words + (position ? `, position ${count(position)}` : "") + (eta == null ? "" : `, about ${span(eta)}`);
}

export const playground = {
	begin(boot) {
		model = localStorage.getItem("model");
		if (!boot.models.includes(model)) model = boot.models.find((it) => !it.includes("embed")) ?? "";
		says = boot.words;
		again = () => document.dispatchEvent(new Event("redraw"));
	},
	render(boot) {
		if (boot.role === "reader") return [h("h1", {}, "Playground"), h("p", { class: "none" }, "This token may only look.")];
		return [
			h("div", { class: "head" }, h("h1", {}, "Playground"),
				h("label", {}, "Model ", h("select", { onchange: (event) => localStorage.setItem("model", (model = event.target.value)) },
					boot.models.map((it) => h("option", { value: it, selected: it === model }, it)))),
				h("button", { type: "button", disabled: !!turn || !talk.length, onclick: () => { talk.length = 0; again(); } }, "New chat")),
			h("div", { class: "talk", role: "log", "aria-label": "Chat" }, talk.map(said)),
			h("form", { class: "ask", onsubmit: send },
				h("textarea", { rows: 3, "aria-label": "Your message", placeholder: "Say something. Enter sends, Shift+Enter begins a line.", ".value": draft,
					oninput: (event) => { draft = event.target.value; }, onkeydown: (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event) }),
				turn ? h("button", { type: "button", class: "danger", key: "stop", onclick: () => turn.stop.abort() }, "Stop")
					: h("button", { class: "yes", key: "send", disabled: !boot.models.length }, "Send")),
			h("p", { class: "soft", role: "status", key: "state" }, turn ? `${told(turn.state)} · ${span((performance.now() - turn.began) / 1000)}` : boot.models.length ? "" : "No target has a model."),
		];
	},
};

const said = (it, at) =>
	h("article", { class: `said ${it.role}`, key: at }, h("h2", { class: "quiet" }, it.role === "user" ? "You" : "The model"),
		it.thinking && h("details", { key: "t" }, h("summary", {}, "Thinking"), h("p", { dir: "auto" }, it.thinking)),
		h("p", { dir: "auto", key: "p" }, it.content), it.note && h("small", { class: it.bad ? "bad" : "", key: "n" }, it.note));

async function send(event) {
	event.preventDefault();
	const content = draft.trim();
	if (!content || turn) return;
	talk.push({ role: "user", content });
	const messages = talk.filter((it) => it.content).map((it) => ({ role: it.role, content: it.content }));
	const answer = { role: "assistant", content: "", thinking: "" };
	talk.push(answer);
	draft = "";
	turn = { stop: new AbortController(), state: { state: "sent" }, began: performance.now(), first: 0, last: 0, deltas: 0 };
	again();
	const sum = new Accumulator();
	let drawn = 0;
	try {
		const options = { headers: HEADERS, signal: turn.stop.signal, onState: (state) => { turn.state = state; again(); } };
		for await (const chunk of chat({ model, messages }, options)) {
			const { text, thinking } = sum.add(chunk);
			if (text || thinking) {
				turn.last = performance.now();
				turn.first ||= turn.last;
				turn.deltas += 1;
			}
			Object.assign(answer, { content: sum.text, thinking: sum.thinking });
			if (performance.now() - drawn > 60) again((drawn = performance.now()));
		}
	} catch (error) {
		answer.bad = error.code !== "cancelled";
		answer.note = answer.bad ? error.message : "stopped";
	}
	const { first, last, began, deltas } = turn;
	const numbers = first && [`first token after ${ms(first - began)}`, deltas > 1 && `${ms((last - first) / (deltas - 1))} per token`, `${count(sum.usage.completionTokens ?? deltas)} tokens`];
	answer.note = [answer.note, ...(numbers || [])].filter(Boolean).join(" · ");
	turn = null;
	again();
}
