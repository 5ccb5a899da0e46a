// What the page asks of its gateway: one call, one way to fail. The header is what makes the cookie count.

/** An answer that was none. */
export class Refused extends Error {
  constructor(status, code, message) {
    super(message);
    Object.assign(this, { status, code });
  }
}

export const HEADERS = { "X-Foreman-Page": "1" };

/** Ask; JSON (or text) comes back. Throws Refused, with a sentence that can be shown. */
export async function ask(path, method = "GET", body) {
  let reply;
  try {
    reply = await fetch(path, { method, body, headers: HEADERS, redirect: "error" });
  } catch {
    throw new Refused(0, "unreachable", "The gateway does not answer.");
  }
  const text = await reply.text();
  const json = (reply.headers.get("Content-Type") ?? "").includes("json");
  let value = text;
  try {
    if (json) value = JSON.parse(text);
  } catch {
    throw new Refused(reply.status, "garbled", "The gateway's answer is no JSON.");
  }
  if (reply.ok) return value;
  const error = value?.error ?? {};
  const sentence = typeof error === "string" ? error : error.message;
  throw new Refused(reply.status, error.code, sentence ?? `The gateway answers ${reply.status}.`);
}
