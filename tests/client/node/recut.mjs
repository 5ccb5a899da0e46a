// Feeds every stream, cut at each byte, to the browsers' reader and accumulator; prints how many, or what differs.
//   node recut.mjs foreman-client.js streams.json
import { readFileSync } from 'node:fs'
import { deepStrictEqual } from 'node:assert'
import { code } from './code.mjs'

const [module, file] = process.argv.slice(2)
const { Reader, Accumulator } = await import(code(module))

function fed (stream, pieces) {
  const reader = new Reader(stream.events ? 'sse' : 'ndjson')
  let parses = 0
  const answer = new Accumulator({ onParse: () => { parses += 1 } })
  const offsets = []
  for (const piece of pieces) {
    for (const { chunk, offset } of reader.feed(piece)) {
      if (!chunk) continue
      answer.add(chunk)
      offsets.push(offset)
    }
  }
  deepStrictEqual(reader.rest(), [])
  const { text, thinking, calls, usage, finish } = answer
  return {
    text, thinking, finish, parses, offsets,
    calls: calls.map(({ id, name, arguments: given }) => ({ id, name, arguments: given })),
    usage: [usage.promptTokens ?? null, usage.completionTokens ?? null]
  }
}

const streams = JSON.parse(readFileSync(file, 'utf8'))
for (const stream of streams) {
  const bytes = new TextEncoder().encode(stream.body)
  const check = (pieces, where) => deepStrictEqual(fed(stream, pieces), stream.expected, `${stream.name}, ${where}`)
  check([bytes], 'whole')
  for (let at = 1; at < bytes.length; at++) check([bytes.subarray(0, at), bytes.subarray(at)], `cut at ${at}`)
  check(Array.from(bytes, (_, at) => bytes.subarray(at, at + 1)), 'byte by byte')
}
console.log(`${streams.length} streams`)
