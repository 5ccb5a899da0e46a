-- include: tally, payload
-- Deliveries of webhooks: per job a lane in order of seq, of which only the head is ever tried; per URL a line of such
-- heads and a few places. A place is taken in the step that hands a delivery to arq (an arq job in arq's own spelling, run
-- at once) and given on in the step that ends the attempt: so arq never holds more of one URL than that URL bears, and
-- thousands that wait for one receiver delay nobody else's. A host bears a number too, since some have a URL per job: URLs
-- that want more stand in a line of their own, under the host's name as deliveries under their URL's. And all hosts share
-- what arq runs at once, so that any number of them may hang and leave room for the next. Only the newest ticket of a
-- delivery counts.
local PLACES = 4 -- at a URL
local HOST_PLACES = 250 -- at a host, all its URLs together
local POOL_PLACES = 1000 -- at all hosts together: what one process runs at once (workers/background.py)
local POOL = '*' -- where a host's name stands in keys
local HOST_MS = 60000 -- nobody holds a place for longer than a fraction of this without asking anew
local HANDED_MS = 10000 -- after which somebody looks whether arq still has what it was handed
local AHEAD_MS = 60000 -- in arq's line: whose last event was taken goes before who is new, and that before who fails
local CLASS_MS = 1e13 -- the same in a full host's line, however long they wait there: who has no room must not stand before who has
local FULL_MS = 30000 -- after which somebody looks again for a URL whose host has no place left
local CROWDED_MS = 1000 -- the same where the host has none to give back: what it lacks others have
local FIRST = 50 -- of a line that are looked at, where the jobs of some are being told already
local AT_ONCE = 0 -- a moment before all others: what not even a broken receiver puts off
local ARQ_MS = 86400000 -- an arq job is kept for so long, and its host's clock may be behind the store's by as much
local LOG_MS = 604800000
local LOG = 1000
local ENDED_MS = 86400000 -- an ended delivery can be sent again for a day
local RECEIVER_MS = 86400000 -- what is known of a receiver, from its last open delivery on
local RECEIVERS = 1000
local SHOWN = {'state', 'previous_state', 'seq', 'attempt', 'epoch', 'surface', 'endpoint', 'model', 'lane', 'slot',
  'priority', 'target', 'target_only', 'caller', 'created_at', 'due', 'deadline', 'started_at', 'finished_at', 'claimed_at',
  'error', 'usage', 'timings', 'metadata', 'not_before', 'retry_of', 'artifacts'}

local function delivery_read(evt)
  local v = redis.call('HMGET', k_delivery(evt), 'job', 'seq', 'state', 'url', 'tries', 'ticket', 'time', 'ending', 'again',
    'inflight', 'final')
  if not v[1] then return nil end
  return {
    id = evt, job = v[1], seq = v[2], state = v[3], url = v[4], tries = tonumber(v[5]), ticket = v[6], time = tonumber(v[7]),
    ending = v[8], again = v[9], inflight = v[10], final = v[11],
    last = v[3] == 'done' or v[3] == 'failed' or v[3] == 'cancelled',
  }
end

local function host_of(url) return string.lower(string.match(url, '^%a+://([^/?#]+)') or 'other') end

-- Places, at the URL and at its host, until `till` (ms): whoever is lost then has none.
local function hold_place(d, till)
  redis.call('ZADD', k_busy(d.url), till, d.id)
  for _, wider in ipairs({host_of(d.url), POOL}) do
    redis.call('ZADD', k_busy(wider), till, d.id)
    redis.call('PEXPIRE', k_busy(wider), HOST_MS)
  end
end

local function give_place_back(d)
  redis.call('ZREM', k_busy(host_of(d.url)), d.id)
  redis.call('ZREM', k_busy(POOL), d.id)
  return redis.call('ZREM', k_busy(d.url), d.id)
end

-- Places taken at a host, or in all.
local function taken_at(wider, now)
  redis.call('ZREMRANGEBYSCORE', k_busy(wider), '-inf', '(' .. now)
  return redis.call('ZCARD', k_busy(wider))
end

-- 1 where a URL took its last event, 2 where it is new, 4 where it fails.
local function doubt(url)
  local known = redis.call('HMGET', k_receiver(url), 'delivered', 'failures')
  return known[2] and 4 or known[1] and 1 or 2
end

-- Whether a URL's host may have one more place: it takes no more than all of them leave free, or a part of that where the
-- URL is in doubt. So n hosts that hang take n / (n + 4) of the pool, and what answers finds room, at their own hosts too.
local function has_room(url, now)
  local free = math.min(HOST_PLACES, POOL_PLACES - taken_at(POOL, now))
  return taken_at(host_of(url), now) < math.floor(free / doubt(url))
end

-- Into the line of its host, which may be many receivers' front door: those that hang hold up those that don't as little as can be.
local function stand_in_line(url, now)
  redis.call('ZADD', k_waiting(host_of(url)), 'NX', doubt(url) * CLASS_MS + now, url)
end

local function arq_id(evt, ticket) return k_arq() .. ':' .. evt .. ':' .. ticket end

-- A place at its receiver, a new ticket, and the arq job for it: one that was due a day ago, so that it is due by the clock
-- of whatever host arq runs on.
local function hand(d, now)
  local ticket = redis.call('HINCRBY', k_delivery(d.id), 'ticket', 1)
  local id = arq_id(d.id, ticket)
  redis.call('PSETEX', 'arq:job:' .. id, ARQ_MS,
    '{"t":null,"f":"deliver","a":["' .. d.id .. '",' .. ticket .. '],"k":{},"et":' .. now .. '}')
  redis.call('ZADD', k_arq(), now + (doubt(d.url) - 2) * AHEAD_MS - ARQ_MS, id)
  redis.call('ZREM', k_waiting(d.url), d.id)
  hold_place(d, now + HANDED_MS)
  return ticket
end

-- Written, and not begun: a begun one without an attempt under way died before it came to that.
local function arq_waits(d)
  local id = arq_id(d.id, d.ticket)
  return redis.call('ZSCORE', k_arq(), id) and redis.call('EXISTS', 'arq:job:' .. id) == 1
    and redis.call('EXISTS', 'arq:in-progress:' .. id) == 0
end

-- Places whose time is over. 1. arq is behind: it keeps its place  2. the attempt or the arq job is lost: in line again
local function take_back(url, now)
  local lost = {}
  for _, evt in ipairs(redis.call('ZRANGEBYSCORE', k_busy(url), '-inf', now)) do
    local d = delivery_read(evt)
    if d and not d.inflight and arq_waits(d) then
      hold_place(d, now + HANDED_MS)
    else
      give_place_back({id = evt, url = url})
      if d then redis.call('ZREM', k_arq(), arq_id(evt, d.ticket)) end
      if d and (not d.ending or d.again) then
        redis.call('HDEL', k_delivery(evt), 'inflight')
        redis.call('ZADD', k_waiting(url), (d.again or d.final) and AT_ONCE or now, evt)
        lost[#lost + 1] = evt
      end
    end
  end
  return lost
end

-- Give the free places of a receiver to those that have waited longest there, and note when to look again (`call`).
-- 1. one attempt per job at a time  2. a receiver that failed too often gets one each gap, and what is AT_ONCE  3. its host
-- has no place left: the URL stands in the host's line
-- returns the deliveries whose attempts were lost, and of the first that was handed out {delivery, ticket}
local function fill(url, now)
  local lost, handed, host = take_back(url, now), nil, host_of(url)
  local told, taken, look, full = {}, 0, math.huge, false
  local busy = redis.call('ZRANGE', k_busy(url), 0, -1, 'WITHSCORES')
  for i = 1, #busy, 2 do
    told[string.match(busy[i], '^evt_(.*)_%d+$')] = true
    taken = taken + 1
    look = math.min(look, tonumber(busy[i + 1]))
  end
  local breaker = redis.call('HMGET', k_receiver(url), 'probe_at', 'gap')
  local probe_at = tonumber(breaker[1] or '')
  local due = taken < PLACES and redis.call('ZRANGEBYSCORE', k_waiting(url), '-inf', now, 'WITHSCORES', 'LIMIT', 0, FIRST) or {}
  for i = 1, #due, 2 do
    local d = delivery_read(due[i])
    local put_off = probe_at and tonumber(due[i + 1]) ~= AT_ONCE
    if not d or (d.ending and not d.again) then
      redis.call('ZREM', k_waiting(url), due[i])
    elseif put_off and probe_at > now then
      look = math.min(look, probe_at)
      break
    elseif not told[d.job] and taken < PLACES and not has_room(url, now) then
      stand_in_line(url, now)
      look, full = math.min(look, now + (taken_at(host, now) > 0 and FULL_MS or CROWDED_MS)), true
      break
    elseif not told[d.job] and taken < PLACES then
      if put_off then
        probe_at = now + tonumber(breaker[2])
        redis.call('HSET', k_receiver(url), 'probe_at', probe_at)
      end
      local ticket = hand(d, now)
      handed = handed or {d.id, ticket}
      told[d.job] = true
      taken = taken + 1
      look = math.min(look, now + HANDED_MS)
    end
  end
  if taken < PLACES then
    local later = redis.call('ZRANGEBYSCORE', k_waiting(url), '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if later then look = math.min(look, math.max(tonumber(later), probe_at or 0)) end
  end
  if not full then redis.call('ZREM', k_waiting(host), url) end
  if look < math.huge then
    redis.call('ZADD', k_calls(), look, url)
  else
    redis.call('ZREM', k_calls(), url)
  end
  return lost, handed
end

-- After a place was given back: its host's longest waiting URLs first, this one behind them.
local function fill_next(url, now)
  local host, first = host_of(url), nil
  if redis.call('EXISTS', k_waiting(host)) == 0 then return fill(url, now) end
  stand_in_line(url, now)
  local line = redis.call('ZRANGE', k_waiting(host), 0, PLACES)
  for _, other in ipairs(line) do
    if not has_room(other, now) then break end
    redis.call('ZREM', k_waiting(host), other)
    local _, handed = fill(other, now)
    first = first or handed
  end
  return {}, first
end

-- A line of the log. attempt 0: none was made, and err says why.
local function note(d, now, attempt, status, took, err, reply)
  local key = k_attempts(d.job)
  redis.call('XADD', key, 'MAXLEN', LOG, '*', 'id', d.id, 'state', d.state, 'seq', d.seq, 'url', d.url,
    'attempt', attempt, 'time', now, 'status', status, 'took', took, 'error', err, 'reply', reply)
  redis.call('PEXPIRE', key, LOG_MS)
end

-- What is kept as long as the job is.
local function job_keys(id)
  return {k_job(id), k_events(id), k_request(id), k_artifact(id, 'completion'), own_key(id)}
end

-- An ended job with open deliveries stays, whatever becomes of its receiver and of us: no TTL until the last one ends,
-- then until `ends` (ms). Its Idempotency-Key gets a far one: an older version that ends the last delivery leaves it alone.
local function stay_while_told(id, ends)
  if redis.call('ZCARD', k_outbox(id)) == 0 then return end
  redis.call('HSET', k_job(id), 'kept_until', ends)
  for _, key in ipairs(job_keys(id)) do
    if string.find(key, k_idempotency(''), 1, true) == 1 then
      redis.call('PEXPIREAT', key, ends + LOG_MS)
    else
      redis.call('PERSIST', key)
    end
  end
end

local function go_when_told(id)
  local ends = redis.call('ZCARD', k_outbox(id)) == 0 and redis.call('HGET', k_job(id), 'kept_until')
  if not ends then return end
  for _, key in ipairs(job_keys(id)) do redis.call('PEXPIREAT', key, ends) end
end

-- Counted by host: URLs may be of one use only.
local function tally_told(d, now, how) tally(now, 'webhook:' .. how, host_of(d.url)) end

local function close(d, ending)
  local key = k_delivery(d.id)
  redis.call('HSET', key, 'ending', ending)
  redis.call('HDEL', key, 'inflight', 'again', 'final')
  redis.call('PEXPIRE', key, ENDED_MS)
  payload_add(-redis.call('STRLEN', k_delivery_body(d.id)))
  redis.call('DEL', k_delivery_body(d.id))
  redis.call('ZREM', k_outbox(d.job), d.id)
  redis.call('ZREM', k_deliveries(), d.id)
  redis.call('ZREM', k_waiting(d.url), d.id)
  give_place_back(d)
  if not d.ending and redis.call('HINCRBY', k_receiver(d.url), 'open', -1) <= 0 then
    redis.call('PEXPIRE', k_receiver(d.url), RECEIVER_MS)
  end
  go_when_told(d.job)
end

-- Into the receiver's line, from `at` (ms) on. The caller fills the receiver's places afterwards.
local function line_up(evt, url, at) redis.call('ZADD', k_waiting(url), at, evt) end

-- The next of the job's lane, not before `at`: its turn begins.
local function send_next(job, url, at, now)
  local head = redis.call('ZRANGE', k_outbox(job), 0, 0)[1]
  if not head then return end
  redis.call('ZADD', k_deliveries(), math.max(at, now), head)
  line_up(head, url, math.max(at, now))
end

local function note_receiver(url, now)
  redis.call('ZADD', k_receivers(), now, url)
  redis.call('ZREMRANGEBYRANK', k_receivers(), 0, -RECEIVERS - 1)
  redis.call('PEXPIRE', k_receivers(), LOG_MS)
end

-- The event that has just been written, on its way to the job's URL where it has one that wants it.
-- 1. the lane was empty: in line  2. its head failed and is no end: superseded; in line now, or when the receiver's
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
  redis.call('ZADD', k_deliveries(), now, evt)
  redis.call('HINCRBY', k_receiver(url), 'open', 1)
  redis.call('PERSIST', k_receiver(url))
  note_receiver(url, now)
  local head = redis.call('ZRANGE', k_outbox(id), 0, 0)[1]
  local d = head ~= evt and delivery_read(head)
  if head == evt then
    line_up(evt, url, now)
  elseif not d then
    redis.call('ZREM', k_outbox(id), head)
    send_next(id, url, now, now)
  elseif d.tries > 0 and not d.last and not d.inflight then
    local hold = tonumber(redis.call('HGET', k_delivery(head), 'hold') or '0')
    note(d, now, 0, '', '', 'superseded', '')
    tally_told(d, now, 'superseded')
    close(d, 'superseded')
    send_next(id, url, hold, now)
  else
    return
  end
  fill(url, now)
end
