-- What is counted and timed since the pool began, in the same step as what happens: so it survives everybody, and each
-- gateway tells the same. Names come from closed lists (states, codes, endpoints), never from callers.
-- Histograms have one scale: bucket i holds what took at most 1 ms × 2^i; 21 is all that took longer (foreman/metrics.py).
local BUCKETS = 21
local RECENT, RECENT_MS = 32, 3600000

local METERS = k_meters()

local function metered(field, by) redis.call('HINCRBY', METERS, field, by) end

-- ms may have a fraction; sums are kept in whole µs.
local function timed(name, ms)
  local bucket, bound = 0, 1
  while bucket < BUCKETS and ms > bound do
    bucket = bucket + 1
    bound = bound * 2
  end
  metered('bucket:' .. name .. ':' .. bucket, 1)
  metered('sum:' .. name, math.floor(ms * 1000 + 0.5))
end

local function json(text)
  if not text or text == '' then return {} end
  return cjson.decode(text)
end

-- A job's end: its state, why, how long it took; and a line for its lane's last runs.
local function meter_end(j, to, reason)
  local v = redis.call('HMGET', k_job(j.id), 'endpoint', 'stream', 'caller')
  metered('jobs:' .. to .. ':' .. (v[1] or ''), 1)
  if to == 'cancelled' then metered('cancels:' .. reason, 1) end
  local code = to == 'failed' and string.match(j.error or '', '"code": ?"([%l_]+)"') or ''
  if to == 'failed' then metered('failures:' .. code, 1) end
  local t, usage = json(j.timings), json(j.usage)
  if t.queued_ms then timed('queue_wait', t.queued_ms) end
  if t.ttft_ms and v[2] == '1' then timed('ttft', t.ttft_ms) end
  if t.tpot_ms then timed('tpot', t.tpot_ms) end
  if t.total_ms then timed('total', t.total_ms) end
  for _, kind in ipairs({'prompt', 'completion'}) do
    local tokens = tonumber(usage[kind .. '_tokens'] or '')
    if tokens and tokens > 0 then metered('tokens:' .. kind, math.floor(tokens)) end
  end
  if j.slot == 'side' then return end
  local recent = k_recent(j.lane)
  local kept = redis.call('LPUSH', recent, table.concat(
    {to, code, v[2] == '1' and t.ttft_ms or '', t.tpot_ms or '', t.queued_ms or '', v[3] or ''}, '\n'))
  if kept >= 2 * RECENT then redis.call('LTRIM', recent, 0, RECENT - 1) end
  if kept % 8 == 1 then redis.call('PEXPIRE', recent, RECENT_MS) end
end
