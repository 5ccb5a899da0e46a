// Runs a table of calls through an official JavaScript client and prints what came back.
//   node call.mjs ollama|openai BASE_URL CASES.json concurrent|sequential
// CASES.json: {"name": ["dotted.method", {args}], …}; output: {"name": {"items": […]} | {"error": {message, status}}}.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const [kind, base, file, mode] = process.argv.slice(2)
const cases = JSON.parse(readFileSync(file, 'utf8'))

// The packages live in a cache folder outside the checkout's tree: resolve from there.
const require = createRequire(pathToFileURL(process.env.FOREMAN_TEST_NODE_MODULES + '/_'))

async function client() {
  if (kind === 'ollama') {
    const { Ollama } = require('ollama')
    return new Ollama({ host: base })
  }
  const OpenAI = require('openai')
  return new OpenAI({ baseURL: base + '/v1', apiKey: 'none', maxRetries: 0 })
}

async function call(api, path, args) {
  const names = path.split('.')
  const last = names.pop()
  const owner = names.reduce((at, name) => at[name], api)
  try {
    const answer = await owner[last](...(Array.isArray(args) ? args : [args]))
    if (answer && typeof answer[Symbol.asyncIterator] === 'function' && args.stream) {
      const items = []
      for await (const item of answer) items.push(item)
      return { items }
    }
    return { items: [answer] }
  } catch (error) {
    return { error: { message: String(error.message), status: error.status ?? error.status_code ?? null } }
  }
}

const api = await client()
const results = {}
const names = Object.keys(cases)
if (mode === 'concurrent') {
  await Promise.all(names.map(async (name) => { results[name] = await call(api, ...cases[name]) }))
} else {
  for (const name of names) results[name] = await call(api, ...cases[name])
}
console.log(JSON.stringify(results))
