// Values become elements, and the next time only what differs is touched, so that focus, selection and scroll stay.
// Text is text: nothing a caller sent is ever read as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** A node. Kids may be nested lists; null and false are left out. `key` names it among its brothers; `.name` is a
 *  property, `onname` a listener, the rest are attributes. */
export const h = (tag, props, ...kids) => ({ tag, props: props ?? {}, key: props?.key ?? props?.["data-key"], kids: flat(kids) });

/** The server's HTML as a node. */
export const tree = (node) => (node.nodeType === Node.TEXT_NODE ? node.data : h(node.localName, worn(node), [...node.childNodes].map(tree)));

// What somebody opened is not the server's.
const worn = (node) => Object.fromEntries([...node.attributes].filter((it) => it.name !== "open").map((it) => [it.name, it.value]));

const flat = (kids) => kids.flat(Infinity).filter((kid) => kid != null && kid !== false && kid !== "");

/** Make `parent` hold exactly `kids`. */
export function patch(parent, ...kids) {
	const wanted = flat(kids);
	const keys = new Set(wanted.map((kid) => kid.key).filter((key) => key !== undefined));
	const known = new Map();
	for (const node of [...parent.childNodes]) {
		if (node.key === undefined) continue;
		if (keys.has(node.key)) known.set(node.key, node);
		else node.remove();
	}
	let at = parent.firstChild;
	for (const kid of wanted) {
		const old = kid.key === undefined ? at : known.get(kid.key);
		const fits = old && old.key === kid.key && old.nodeName.toLowerCase() === (kid.tag ?? "#text").toLowerCase();
		const node = fits ? old : make(kid, parent);
		if (node === at) at = at.nextSibling;
		else parent.insertBefore(node, at);
		if (kid.tag) dress(node, kid);
		else if (node.data !== String(kid)) node.data = kid;
	}
	while (at) {
		const next = at.nextSibling;
		at.remove();
		at = next;
	}
}

function make(kid, parent) {
	if (!kid.tag) return document.createTextNode(kid);
	const node = kid.tag === "svg" || parent.namespaceURI === SVG ? document.createElementNS(SVG, kid.tag) : document.createElement(kid.tag);
	node.key = kid.key;
	return node;
}

function dress(node, { props, kids }) {
	const before = node.given ?? worn(node);
	for (const name of new Set([...Object.keys(before), ...Object.keys(props)])) {
		const value = props[name];
		if (name[0] === "." && node[name.slice(1)] !== value) node[name.slice(1)] = value;
		if (name === "key" || name[0] === "." || before[name] === value) continue;
		if (name.startsWith("on")) node[name] = value ?? null;
		else if (value == null || value === false) node.removeAttribute(name);
		else node.setAttribute(name, value === true ? "" : value);
	}
	node.given = props;
	if (!("data-keep" in props)) patch(node, kids); // what was loaded stays
}

/** Draw a view; where that took the focus, it comes back, or goes to what stands there now. */
export function draw(parent, kids) {
	const held = document.activeElement;
	const home = held.parentNode;
	patch(parent, kids);
	if (held !== document.activeElement) (held.isConnected ? held : home.querySelector("button, a"))?.focus({ preventScroll: true });
}
