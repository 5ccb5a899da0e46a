// What the page asks of its gateway: one call, one way to fail. The header is what makes the cookie count.
export const HEADERS = { "X-Foreman-Page": "1" };

const refused = (status, message) => Object.assign(new Error(message), { status });

/** Ask; JSON (or text) comes back. Throws an Error with a `status` (0: no answer) and a sentence that can be shown. */
export async function ask(path, method = "GET", signal = null) {
	const reply = await fetch(path, { method, headers: HEADERS, signal }).catch(() => {
		throw refused(0, "The gateway does not answer.");
	});
	const json = reply.headers.get("Content-Type")?.includes("json");
	const value = await (json ? reply.json() : reply.text());
	if (reply.ok) return value;
	throw refused(reply.status, value.error?.message ?? value.error ?? `The gateway answers ${reply.status}.`);
}
