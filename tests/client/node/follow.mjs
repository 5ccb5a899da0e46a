// One keyed chat by the browsers' client; each chunk as a line of JSON, and one where it goes after a lost answer.
//   node follow.mjs foreman-client.js REQUEST URL…
import { randomUUID } from 'node:crypto'
import { code } from './code.mjs'

const [module, request, ...url] = process.argv.slice(2)
const { chat } = await import(code(module))
const say = (value) => console.log(JSON.stringify(value))
const onState = ({ state }) => { if (state === 'resuming') say({ state }) }
for await (const chunk of chat(JSON.parse(request), { url, onState, key: randomUUID() })) say(chunk)
