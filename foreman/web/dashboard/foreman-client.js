// foreman's client for browsers (and Node ≥ 18): one streamed call, its chunks as they come, its waiting as states.
//
//   import { chat, Accumulator, ForemanError } from '/ui/foreman-client.js'
//   const stop = new AbortController()
//   const answer = new Accumulator()
//   for await (const chunk of chat({ model, messages }, { signal: stop.signal, onState: show })) {
//     const { text, thinking, calls } = answer.add(chunk)   // what this chunk brought
//   }
//
// Aborting `signal` ends the job in whatever state it is: the iterator throws a ForemanError with code `cancelled`.
// So does leaving the loop.
//
// chat(request, options) takes
//   request   the body in the dialect of `path`; `stream` is set to true
//   signal    an AbortSignal: Stop
//   onState   called with { state, jobId, position?, eta?, elapsed?, target?, downFor?, tokens?, attempt? }; state is
//             sent · queued · loading · working · waiting (the target is down) · thinking · answering · resuming · done;
//             thinking and answering at most ten times a second; seconds as numbers.
//   path      /api/chat (default) · /api/generate · /v1/chat/completions · /v1/completions · /v1/messages · /v1/responses
//   url       the gateway's base URL, or a list of them, tried in turn; default: the page's own origin
//   headers   more request headers, such as Authorization
//   key       an Idempotency-Key (`crypto.randomUUID()`): the call then survives a dropped connection and a restarted
//             gateway; it is resumed where it broke off. Without one a job ends with its connection, as a page's should.
//   onRestart called when an answer was lost for good and begins anew: throw away what was shown. Without it that is an
//             error once a chunk was handed out.
//   patience  seconds without a sign of life after which a lost answer is given up; default 30
//   progress  seconds between two states while waiting; default 1
// and yields the chunks as parsed JSON, exactly as the dialect has them.

const WAITING = /^: (queued|loading|working|waiting)((?: [a-z_]+=[^ ]+)*)$/
const RETRYABLE = new Set(['upstream_unreachable', 'upstream_truncated', 'interrupted', 'stalled', 'queue_full',
	'store_unavailable', 'shutting_down'])
const RESPONSE_ENDS = new Set(['response.completed', 'response.incomplete', 'response.failed'])
const PAUSES = [0.1, 0.5, 1, 2]
const LONGEST_PAUSE = 30
const SILENCE = 20 // seconds beyond ten heartbeats after which a silent connection is a lost one, whatever TCP says
const CANCEL_WITHIN = 5000 // ms
const OFTENEST = 100 // ms between two tellings of the same state: pages draw each
const NEWLINE = 10

/** What went wrong, in the gateway's words. `status` is null once the answer had begun, `code` is foreman's where known. */
export class ForemanError extends Error {
	constructor(message, { status = null, code = null, retryable = false, retryAfter = null, jobId = null } = {}) {
		super(message)
		this.name = 'ForemanError'
		Object.assign(this, { status, code, retryable, retryAfter, jobId })
	}
}

/** A streamed call: an async iterator of chunks. See the head of this file. */
export async function * chat (request, options = {}) {
	const call = new Call(request, options)
	try {
		yield * call.chunks()
	} finally {
		call.leave()
	}
}

class Call {
	constructor (request, { signal, onState = () => {}, onRestart, path = '/api/chat', url = '', headers = {}, key = null, patience = 30, progress = 1 }) {
		Object.assign(this, { signal, onState, onRestart, path, key, patience, progress })
		this.urls = [].concat(url).map((base) => base.replace(/\/$/, ''))
		this.body = JSON.stringify({ ...request, stream: true })
		this.own = headers
		this.headers = { Accept: 'text/event-stream', ...headers }
		this.abort = new AbortController()
		this.jobId = this.phase = null
		this.posted = this.connected = this.over = false
		this.offset = 0 // bytes of the answer that were handed out as chunks
		this.given = this.tokens = this.toldAt = 0
	}

	async * chunks () {
		const stopped = () => this.abort.abort()
		this.signal?.addEventListener('abort', stopped)
		if (this.signal?.aborted) stopped()
		try {
			let failures = 0
			let heard = performance.now()
			for (let resume = false; ;) {
				const before = this.given
				try {
					yield * this.once(resume)
					this.over = true
					this.tell('done', { tokens: this.tokens })
					return
				} catch (error) {
					if (this.abort.signal.aborted) throw this.error('the call was stopped', { code: 'cancelled' })
					const failure = error instanceof ForemanError ? error : this.error(String(error.message ?? error), { retryable: true })
					await this.name(failure)
					if (this.given > before) { failures = 0; heard = performance.now() }
					failures += 1
					if (failure.notHere && resume) { // nothing is left to resume: the whole call again, under the same key
						resume = false
						continue
					}
					const pause = failure.retryAfter ?? PAUSES[Math.min(failures, PAUSES.length) - 1]
					const late = (performance.now() - heard) / 1000 + pause > this.patience
					const nobody = !this.connected && failures >= this.urls.length
					if (!failure.retryable || late || nobody || failure.spliced || (this.given && !this.key)) throw failure
					this.urls.push(this.urls.shift())
					this.tell('resuming', { attempt: failures })
					await this.pause(pause)
					resume = Boolean(this.key && this.jobId && this.offset && !failure.final)
				}
			}
		} finally {
			this.signal?.removeEventListener('abort', stopped)
		}
	}

	/** One connection, from where the last one ended. */
	async * once (resume) {
		if (!resume) this.tell('sent')
		this.posted ||= !this.abort.signal.aborted
		const reply = resume
			? await fetch(`${this.urls[0]}/jobs/${encodeURIComponent(this.jobId)}/stream?offset=${this.offset}`, { headers: this.headers, signal: this.abort.signal })
			: await this.post(this.abort.signal)
		this.connected = true
		if (!reply.ok) throw await this.refusal(reply, resume)
		const jobId = reply.headers.get('X-Foreman-Job-Id') ?? this.jobId
		let skip = 0
		const same = jobId === this.jobId
		this.jobId = jobId
		if (!resume && this.given) {
			if (same) skip = this.offset // the answer from its first byte
			else this.restart()
		}
		const start = resume ? this.offset : 0
		const type = reply.headers.get('Content-Type') ?? ''
		if (type.startsWith('application/json')) {
			const chunk = JSON.parse(await reply.text())
			if (chunk.error) throw this.failed(chunk)
			yield this.hand(chunk)
			return
		}
		const reader = new Reader(type.startsWith('text/event-stream') ? 'sse' : 'ndjson')
		let ended = false
		const silence = reply.headers.has('X-Foreman-Job-Id') ? 10 * this.progress + SILENCE : null
		for await (const piece of pieces(reply.body, silence)) {
			for (const item of reader.feed(piece)) {
				if (item.state) { this.tell(item.state, item); continue }
				if (item.done) { ended = true; continue }
				const failure = failureIn(item.chunk)
				if (failure) throw this.failed(failure)
				if (item.offset <= skip) continue
				this.offset = start + item.offset
				ended = endsStream(this.path, item.chunk) || ended
				yield this.hand(item.chunk)
			}
		}
		for (const { chunk } of reader.rest()) {
			const failure = failureIn(chunk)
			if (failure) throw this.failed(failure)
			ended = endsStream(this.path, chunk) || ended
			yield this.hand(chunk)
		}
		if (!ended) throw this.error('the answer ended before its end mark: the gateway or the target behind it went away', { retryable: true })
	}

	post (signal) {
		const headers = { 'Content-Type': 'application/json', ...this.headers, 'X-Foreman-Progress': String(this.progress) }
		if (this.key) headers['Idempotency-Key'] = this.key
		return fetch(this.urls[0] + this.path, { method: 'POST', body: this.body, signal, headers })
	}

	hand (chunk) {
		this.given += 1
		const { thinking, text } = takeApart(chunk)
		if (thinking || text) {
			this.tokens += 1
			const state = thinking ? 'thinking' : 'answering'
			const now = performance.now()
			if (state !== this.phase || now - this.toldAt > OFTENEST) this.tell(state, { tokens: this.tokens })
		}
		return chunk
	}

	tell (state, more = {}) {
		this.phase = state
		this.toldAt = performance.now()
		this.onState({ jobId: this.jobId, ...more, state })
	}

	restart () {
		if (!this.onRestart) {
			const error = this.error('the answer was lost and begins anew: send the request again', { retryable: true, code: 'interrupted' })
			throw Object.assign(error, { spliced: true })
		}
		this.offset = this.given = this.tokens = 0
		this.onRestart()
	}

	error (message, fields = {}) {
		const { final = false, ...rest } = fields
		const error = new ForemanError(message, { jobId: this.jobId, ...rest })
		if (final) error.retryable = error.final = true
		return error
	}

	/** Look up what an error in the stream was: not every dialect has room for foreman's code. */
	async name (failure) {
		if (!failure.inStream || failure.code !== null || this.jobId === null) return
		try {
			const reply = await fetch(`${this.urls[0]}/jobs/${encodeURIComponent(this.jobId)}`, { headers: this.own, signal: this.abort.signal })
			const { error } = await reply.json()
			failure.code = error?.code ?? null
			failure.retryable = failure.final = error?.retryable === true
		} catch { /* it stays without */ }
	}

	/** An error that came in the stream: the run is over, another one needs the whole call. */
	failed (said) {
		const code = said.code ?? said.error?.code ?? null
		const message = said.message ?? said.error?.message ?? said.error ?? 'no reason given'
		return Object.assign(this.error(String(message), { code, final: RETRYABLE.has(code) || said.type === 'overloaded_error' }), { inStream: true })
	}

	async refusal (reply, resume) {
		const body = await reply.text()
		let said = body.trim().slice(0, 500) || 'no reason given'
		let error = null
		try { error = JSON.parse(body).error; said = error?.message ?? error ?? said } catch { /* no JSON: the body as it is */ }
		const code = reply.headers.get('X-Foreman-Error') ?? error?.code ?? null
		const after = Number.parseFloat(reply.headers.get('Retry-After'))
		const retryable = error?.retryable ?? (code === null ? [502, 503, 504].includes(reply.status) : RETRYABLE.has(code))
		const failure = this.error(String(said), { status: reply.status, code, retryable, retryAfter: Number.isFinite(after) ? Math.min(after, LONGEST_PAUSE) : null })
		failure.notHere = resume && [404, 409, 410, 416].includes(reply.status) && (code === null || code === 'bad_request')
		return failure
	}

	pause (seconds) {
		return new Promise((resolve, reject) => {
			const timer = setTimeout(resolve, seconds * 1000)
			this.abort.signal.addEventListener('abort', () => { clearTimeout(timer); reject(this.abort.signal.reason) }, { once: true })
		})
	}

	/** Close the connection; a keyed job, which would outlive it, is cancelled. */
	leave () {
		if (this.over) return
		this.over = true
		this.abort.abort()
		if (this.key && this.posted) this.cancel().catch(() => {})
	}

	async cancel () {
		if (!this.jobId) { // left before its head: the same key attaches, and its head comes at once
			const reply = await this.post(AbortSignal.timeout(CANCEL_WITHIN))
			this.jobId = reply.headers.get('X-Foreman-Job-Id')
			await reply.body?.cancel()
		}
		if (!this.jobId) return
		await fetch(`${this.urls[0]}/jobs/${encodeURIComponent(this.jobId)}`, { method: 'DELETE', keepalive: true, headers: this.own })
	}
}

/** What comes, as it comes; an error where nothing came for `silence` seconds. */
async function * pieces (body, silence) {
	const reader = body.getReader() // Safari's streams are no async iterables
	let timer
	try {
		for (;;) {
			const late = silence === null ? [] : [new Promise((resolve, reject) => {
				timer = setTimeout(() => reject(new Error('the gateway fell silent in the middle of an answer')), silence * 1000)
			})]
			const { done, value } = await Promise.race([reader.read(), ...late])
			clearTimeout(timer)
			if (done) return
			yield value
		}
	} finally {
		clearTimeout(timer)
		reader.cancel().catch(() => {})
	}
}

/** Bytes to chunks, wherever they were cut: `feed(bytes)` gives { chunk, offset }, { state, … } and { done: true }.
 *  `offset` counts the bytes of the answer up to the end of the last whole chunk: heartbeats don't count. */
export class Reader {
	constructor (framing) {
		this.framing = framing
		this.offset = 0
		this.pending = []
		this.decoder = new TextDecoder()
		this.unit = 0
		this.data = []
	}

	feed (bytes) {
		const items = []
		let start = 0
		for (let end; (end = bytes.indexOf(NEWLINE, start)) >= 0; start = end + 1) {
			this.pending.push(bytes.subarray(start, end + 1))
			this.line(this.take(), items)
		}
		if (start < bytes.length) this.pending.push(bytes.slice(start))
		return items
	}

	/** What is left at the end of the body: a last line without its newline. */
	rest () {
		const items = []
		try {
			if (this.pending.length) this.line(this.take(), items)
			if (this.framing === 'sse' && this.data.length) this.line({ text: '', size: 0 }, items)
		} catch { /* a piece of a chunk is none */ }
		return items.filter(({ chunk }) => chunk)
	}

	take () {
		const [first, ...more] = this.pending
		this.pending = []
		const size = more.reduce((sum, piece) => sum + piece.length, first.length)
		let whole = first
		if (more.length) {
			whole = new Uint8Array(size)
			let at = 0
			for (const piece of [first, ...more]) { whole.set(piece, at); at += piece.length }
		}
		return { text: this.decoder.decode(whole).replace(/\r?\n$/, ''), size }
	}

	line ({ text, size }, items) {
		if (this.framing === 'ndjson') {
			const json = text.trimStart() // the spaces before it are heartbeats
			if (!json) return
			const chunk = JSON.parse(json)
			this.offset += size - (text.length - json.length)
			items.push({ chunk, offset: this.offset })
			return
		}
		const waiting = this.unit === 0 ? WAITING.exec(text) : null
		if (waiting) {
			items.push({ state: waiting[1], ...words(waiting[2]) })
			return
		}
		this.unit += size
		if (text.startsWith('data:')) this.data.push(text.slice(text[5] === ' ' ? 6 : 5))
		if (text !== '') return
		this.offset += this.unit
		this.unit = 0
		const data = this.data.join('\n')
		this.data = []
		if (data === '[DONE]') items.push({ done: true })
		else if (data) items.push({ chunk: JSON.parse(data), offset: this.offset })
	}
}

/** `position=3 eta=41s down_for=2s` as { position: 3, eta: 41, downFor: 2 }. */
function words (text) {
	const found = {}
	for (const word of text.trim().split(' ').filter(Boolean)) {
		const [name, value] = word.split('=', 2)
		found[name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase())] = /^\d+(\.\d+)?s?$/.test(value) ? Number.parseFloat(value) : value
	}
	return found
}

/** What the chunks of one answer add up to. The arguments of a tool call are parsed once, at the call's own end mark
 *  (`content_block_stop`, `finish_reason`, `done`, `function_call_arguments.done`), never before: half of a JSON is none. */
export class Accumulator {
	constructor ({ onParse } = {}) {
		this.text = ''
		this.thinking = ''
		this.calls = [] // { id, name, arguments, error? } in the order of their ends
		this.usage = {} // promptTokens, completionTokens
		this.finish = null // the dialect's own word: stop, length, tool_calls, end_turn, …
		this.parses = 0
		this.onParse = onParse ?? (() => {})
		this.open = new Map() // calls under way, by their index
	}

	/** Take a chunk; { text, thinking, calls } that it brought. */
	add (chunk) {
		const { text = '', thinking = '', fragments = [], ended = [], usage, finish } = takeApart(chunk)
		this.text += text
		this.thinking += thinking
		for (const { index, id, name, piece } of fragments) {
			const call = this.open.get(index) ?? { id: null, name: '', pieces: [] }
			call.id ??= id ?? null
			call.name ||= name ?? ''
			if (piece !== undefined) call.pieces.push(piece)
			this.open.set(index, call)
		}
		const calls = (ended === 'all' ? [...this.open.keys()] : ended).filter((index) => this.open.has(index)).map((index) => this.close(index))
		for (const [name, count] of Object.entries(usage ?? {})) if (Number.isInteger(count)) this.usage[name] = count
		this.finish = finish ?? this.finish
		return { text, thinking, calls }
	}

	close (index) {
		const { id, name, pieces } = this.open.get(index)
		this.open.delete(index)
		const call = { id, name, arguments: {} }
		this.parses += 1
		if (typeof pieces[0] === 'object' && pieces[0] !== null) call.arguments = pieces[0] // Ollama's: an object already
		else {
			const json = pieces.join('')
			try { call.arguments = json.trim() ? JSON.parse(json) : {} } catch (error) { Object.assign(call, { arguments: json, error: String(error.message) }) }
		}
		this.calls.push(call)
		this.onParse(call)
		return call
	}
}

/** The parts of a chunk of any dialect. */
function takeApart (chunk) {
	if (typeof chunk.type === 'string') return chunk.type.startsWith('response.') ? fromResponses(chunk) : fromMessages(chunk)
	return Array.isArray(chunk.choices) ? fromOpenAI(chunk) : fromNative(chunk)
}

function fromNative (chunk) {
	const message = chunk.message ?? {}
	const calls = (message.tool_calls ?? []).concat(chunk.tool_calls ?? [])
	return {
		text: (message.content ?? '') + (chunk.response ?? ''),
		thinking: (message.thinking ?? '') + (chunk.thinking ?? ''),
		fragments: calls.map(({ id, function: { name, arguments: piece } }, at) => ({ index: `${id ?? ''}/${at}/${name}`, id, name, piece })),
		ended: calls.length || chunk.done ? 'all' : [], // a call of Ollama's is whole when it comes
		usage: { promptTokens: chunk.prompt_eval_count, completionTokens: chunk.eval_count },
		finish: chunk.done_reason
	}
}

function fromOpenAI (chunk) {
	const choice = chunk.choices[0] ?? {}
	const delta = choice.delta ?? choice.message ?? {}
	return {
		text: delta.content ?? choice.text ?? '',
		thinking: delta.reasoning ?? delta.reasoning_content ?? '',
		fragments: (delta.tool_calls ?? []).map((call, at) => ({ index: call.index ?? at, id: call.id, name: call.function?.name, piece: call.function?.arguments })),
		ended: choice.finish_reason ? 'all' : [],
		usage: { promptTokens: chunk.usage?.prompt_tokens, completionTokens: chunk.usage?.completion_tokens },
		finish: choice.finish_reason
	}
}

function fromMessages (event) {
	const { index, delta = {}, content_block: block = {}, usage = event.message?.usage ?? {} } = event
	const counts = { promptTokens: usage.input_tokens, completionTokens: usage.output_tokens }
	switch (event.type) {
		case 'message': return { ...fromBlocks(event.content ?? []), usage: counts, finish: event.stop_reason }
		case 'content_block_start': return {
			text: block.text, thinking: block.thinking, fragments: block.type === 'tool_use' ? [{ index, id: block.id, name: block.name }] : []
		}
		case 'content_block_delta': return {
			text: delta.text, thinking: delta.thinking, fragments: delta.type === 'input_json_delta' ? [{ index, piece: delta.partial_json }] : []
		}
		case 'content_block_stop': return { ended: [index] }
		case 'message_delta': return { usage: counts, finish: delta.stop_reason }
		default: return { usage: counts }
	}
}

function fromBlocks (blocks) {
	const join = (name) => blocks.map((block) => block[name] ?? '').join('')
	const calls = blocks.filter(({ type }) => type === 'tool_use')
	return { text: join('text'), thinking: join('thinking'), fragments: calls.map(({ id, name, input }, index) => ({ index, id, name, piece: input })), ended: 'all' }
}

function fromResponses (event) {
	const { item = {}, output_index: index } = event
	switch (event.type) {
		case 'response.output_text.delta': return { text: event.delta }
		case 'response.reasoning_summary_text.delta': return { thinking: event.delta }
		case 'response.output_item.added': return { fragments: item.type === 'function_call' ? [{ index: item.id ?? index, id: item.call_id, name: item.name }] : [] }
		case 'response.function_call_arguments.delta': return { fragments: [{ index: event.item_id ?? index, piece: event.delta }] }
		case 'response.function_call_arguments.done': return { ended: [event.item_id ?? index] }
		default: return RESPONSE_ENDS.has(event.type) ? fromResponseEnd(event.response ?? {}) : {}
	}
}

function fromResponseEnd ({ status, usage }) {
	return { ended: 'all', usage: { promptTokens: usage?.input_tokens, completionTokens: usage?.output_tokens }, finish: status }
}

/** Whether a chunk is the end mark of a path's stream; OpenAI's is no chunk but `[DONE]`. */
function endsStream (path, { type, done }) {
	if (path === '/v1/messages') return type === 'message_stop'
	return path === '/v1/responses' ? RESPONSE_ENDS.has(type) : done === true && !path.startsWith('/v1/')
}

/** What a chunk of any dialect says of a failure, { message, code?, type? }; null for any other chunk. */
function failureIn ({ type, response, error }) {
	const said = type === 'response.failed' ? response?.error : error
	if (!said) return null
	return typeof said === 'object' ? { message: 'no reason given', ...said } : { message: said }
}
