-- Deliveries of webhooks: per job a lane in order of seq, of which only the head is ever tried. Where it is due, an arq
-- job is written in arq's own spelling, in the same step as what made it due; only the newest ticket of a delivery counts.
local ARQ_MS = 86400000 -- an arq job is kept this much longer than its moment
local LOG_MS = 604800000
local LOG = 1000
local ENDED_MS = 86400000 -- an ended delivery can be sent again for a day
local RECEIVER_MS = 86400000
local LINE_MS = 60000 -- after which the sweeper looks whether anybody is left to call the next one
local SHOWN = {'state', 'previous_state', 'seq', 'attempt', 'epoch', 'surface', 'endpoint', 'model', 'lane', 'slot',
  'priority', 'target', 'target_only', 'caller', 'created_at', 'due', 'deadline', 'started_at', 'finished_at', 'claimed_at',
  'error', 'usage', 'timings', 'metadata', 'not_before', 'retry_of', 'artifacts'}

local function delivery_read(evt)
  local v = redis.call('HMGET', k_delivery(evt), 'job', 'seq', 'state', 'url', 'tries', 'ticket', 'time', 'ending', 'again',
    'inflight')
  if not v[1] then return nil end
  return {
    id = evt, job = v[1], seq = v[2], state = v[3], url = v[4], tries = tonumber(v[5]), ticket = v[6], time = tonumber(v[7]),
    ending = v[8], again = v[9], inflight = v[10],
    last = v[3] == 'done' or v[3] == 'failed' or v[3] == 'cancelled',
  }
end

local function arq_id(evt, ticket) return k_arq() .. ':' .. evt .. ':' .. ticket end

-- Have it tried at `at` (ms): a new ticket, and the arq job for it.
local function send(evt, at, now)
  local ticket = redis.call('HINCRBY', k_delivery(evt), 'ticket', 1)
  local id = arq_id(evt, ticket)
  redis.call('PSETEX', 'arq:job:' .. id, at - now + ARQ_MS,
    '{"t":null,"f":"deliver","a":["' .. evt .. '",' .. ticket .. '],"k":{},"et":' .. now .. '}')
  redis.call('ZADD', k_arq(), at, id)
  redis.call('ZADD', k_deliveries(), at, evt)
end

-- Wait for a place at a receiver that has as many attempts as it bears: an attempt's end there calls the next one.
local function line_up(evt, url, now)
  redis.call('ZADD', k_waiting(url), 'NX', now, evt)
  redis.call('PEXPIRE', k_waiting(url), RECEIVER_MS)
  redis.call('ZADD', k_deliveries(), now + LINE_MS, evt)
end

-- A line of the log. attempt 0: none was made, and err says why.
local function note(d, now, attempt, status, took, err, reply)
  local key = k_attempts(d.job)
  redis.call('XADD', key, 'MAXLEN', LOG, '*', 'id', d.id, 'state', d.state, 'seq', d.seq, 'url', d.url,
    'attempt', attempt, 'time', now, 'status', status, 'took', took, 'error', err, 'reply', reply)
  redis.call('PEXPIRE', key, LOG_MS)
end

local function job_keys(id) return {k_job(id), k_events(id), k_request(id), k_artifact(id, 'completion')} end

-- An ended job with open deliveries stays, whatever becomes of its receiver and of us: no TTL until the last one ends,
-- then until `ends` (ms).
local function stay_while_told(id, ends)
  if redis.call('ZCARD', k_outbox(id)) == 0 then return end
  redis.call('HSET', k_job(id), 'kept_until', ends)
  for _, key in ipairs(job_keys(id)) do redis.call('PERSIST', key) end
end

local function go_when_told(id)
  local ends = redis.call('ZCARD', k_outbox(id)) == 0 and redis.call('HGET', k_job(id), 'kept_until')
  if not ends then return end
  for _, key in ipairs(job_keys(id)) do redis.call('PEXPIREAT', key, ends) end
end

local function close(d, ending)
  redis.call('HSET', k_delivery(d.id), 'ending', ending)
  redis.call('HDEL', k_delivery(d.id), 'inflight', 'again')
  redis.call('PEXPIRE', k_delivery(d.id), ENDED_MS)
  redis.call('DEL', k_delivery_body(d.id))
  redis.call('ZREM', k_outbox(d.job), d.id)
  redis.call('ZREM', k_deliveries(), d.id)
  redis.call('ZREM', k_waiting(d.url), d.id)
  go_when_told(d.job)
end

-- The next of the job's lane, not before `at`.
local function send_next(job, at, now)
  local head = redis.call('ZRANGE', k_outbox(job), 0, 0)[1]
  if head then send(head, math.max(at, now), now) end
end

-- The event that has just been written, on its way to the job's URL where it has one that wants it.
-- 1. the lane was empty: tried at once, or in line behind others at that URL  2. its head failed and is no end: superseded, tried at once or when the receiver's
-- Retry-After is over  3. it waits for its turn
local function tell(id, seq, state, now)
  local v = redis.call('HMGET', k_job(id), 'state_webhook_url', 'webhook_events', 'webhook_over')
  local url, wanted = v[1], v[2] or ''
  if not url or v[3] then return end
  if wanted ~= '' and not string.find(' ' .. wanted .. ' ', ' ' .. state .. ' ', 1, true) then return end
  local evt, values, shown = 'evt_' .. id .. '_' .. seq, redis.call('HMGET', k_job(id), unpack(SHOWN)), {}
  for number, name in ipairs(SHOWN) do
    if values[number] then shown[name] = values[number] end
  end
  redis.call('HSET', k_delivery(evt), 'job', id, 'seq', seq, 'state', state, 'url', url, 'tries', 0, 'ticket', 0,
    'time', now, 'snapshot', cjson.encode(shown))
  redis.call('ZADD', k_outbox(id), seq, evt)
  local head = redis.call('ZRANGE', k_outbox(id), 0, 0)[1]
  if head == evt then
    -- where others wait already, an arq job would only find that out: a burst to one URL must not keep arq from the rest
    if redis.call('EXISTS', k_waiting(url)) == 1 then return line_up(evt, url, now) end
    return send(evt, now, now)
  end
  local d = delivery_read(head)
  if not d then
    redis.call('ZREM', k_outbox(id), head)
    return send_next(id, now, now)
  end
  if d.tries > 0 and not d.last and not d.inflight then
    local hold = tonumber(redis.call('HGET', k_delivery(head), 'hold') or '0')
    note(d, now, 0, '', '', 'superseded', '')
    close(d, 'superseded')
    send_next(id, hold, now)
  end
end
