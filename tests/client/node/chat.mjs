// One chat by the browsers' client; what came of it as one line of JSON.
//   node chat.mjs foreman-client.js OPTIONS   with { url, key?, path?, restart?, stopAfter?, stopWhen?, leaveAfter? }
import { code } from './code.mjs'

const [module, given] = process.argv.slice(2)
const { chat, Accumulator, ForemanError } = await import(code(module))
const { restart = false, stopAfter = null, stopWhen = null, leaveAfter = null, ...options } = JSON.parse(given)
const found = { text: '', states: [], restarts: 0, error: null, chunks: 0 }
const stop = new AbortController()
let answer = new Accumulator()
options.signal = stop.signal
options.onState = ({ state }) => {
  if (found.states.at(-1) !== state) found.states.push(state)
  if (state === stopWhen) stop.abort()
}
if (restart) options.onRestart = () => { found.restarts += 1; answer = new Accumulator() }
try {
  for await (const chunk of chat({ model: 'm', messages: [] }, options)) {
    answer.add(chunk)
    found.chunks += 1
    if (found.chunks === stopAfter) stop.abort()
    if (found.chunks === leaveAfter) break
  }
} catch (error) {
  if (!(error instanceof ForemanError)) throw error
  const { message, code, status, retryable } = error
  found.error = { message, code, status, retryable }
}
await new Promise((resolve) => setTimeout(resolve, 100)) // a last DELETE, sent by the way
console.log(JSON.stringify({ ...found, text: answer.text }))
