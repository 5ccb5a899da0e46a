// Numbers, times and names as people read them.
import { h } from "./dom.js";

const digits = new Intl.NumberFormat("en");

/** A count: 12,345; a dash for what is not known. */
export const count = (value) => (value == null ? "–" : digits.format(value));

/** A span in seconds: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min, 3 d 4 h. */
export function span(seconds) {
	if (seconds == null) return "–";
	if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
	const s = Math.round(seconds);
	if (s < 60) return `${s} s`;
	const two = (a, unit, b, small) => (b ? `${a} ${unit} ${b} ${small}` : `${a} ${unit}`);
	if (s < 3600) return two(Math.floor(s / 60), "min", s % 60, "s");
	if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
	return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

export const ms = (value) => (value == null ? "–" : value < 999.5 ? `${value.toFixed(value < 9.95 ? 1 : 0)} ms` : span(value / 1000));

/** Seconds between a moment and `now` (ms). */
export const since = (iso, now) => (iso ? Math.max(0, (now - Date.parse(iso)) / 1000) : null);

/** Words from outside, without what would turn the direction of those that follow. */
export const plain = (text) => text?.replace(/[\u202a-\u202e\u2066-\u2069]/g, "\ufffd");

/** A name from outside: its direction stays its own; cut by the style, whole in its title. */
export const name = (text, more) => h("bdi", { class: "name", title: text, ...more }, plain(text) ?? "–");

export const shortId = (id) => h("code", { title: id }, `…${id.slice(-8)}`);

const MARKS = {
	up: "✓", down: "✗", paused: "‖", queued: "○", loading: "◔", working: "●",
};

/** A state: mark, word and colour. */
export const state = (word, more) =>
	h("span", { class: `state s-${word}` }, h("span", { "aria-hidden": "true" }, `${MARKS[word] ?? "·"} `), more ?? word);

/** One of eight colours, the same for the same text. */
export function colour(text) {
	let sum = 7;
	for (const letter of text ?? "") sum = (sum * 31 + letter.codePointAt(0)) >>> 0;
	return `c${sum % 8}`;
}
