-- Have those deliveries tried again that nobody tries although their moment is over.
-- 1. ended  2. its attempt's lease lives  3. its attempt is lost: a new one  4. it waits in line, and an attempt under way
-- there will call it  5. arq is behind: look later  6. its arq job is lost: a new one
-- KEYS[1] the pool's prefix
-- ARGV    1 ms after its moment from which one counts as forgotten  2 how many at most
-- returns the deliveries that were sent anew
-- include: clock, outbox
local slack, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local now, sent = clock(), {}

-- Written, and not begun: a begun one without an attempt under way died before it came to that.
local function arq_waits(evt, ticket)
  local id = arq_id(evt, ticket)
  return redis.call('ZSCORE', k_arq(), id) and redis.call('EXISTS', 'arq:job:' .. id) == 1
    and redis.call('EXISTS', 'arq:in-progress:' .. id) == 0
end

for _, evt in ipairs(redis.call('ZRANGEBYSCORE', k_deliveries(), '-inf', now, 'LIMIT', 0, limit)) do
  local d = delivery_read(evt)
  local lease = d and d.inflight and tonumber(redis.call('ZSCORE', k_busy(d.url), evt) or '0')
  if not d or (d.ending and not d.again) then
    redis.call('ZREM', k_deliveries(), evt)
  elseif lease and lease > now then
    redis.call('ZADD', k_deliveries(), lease, evt)
  elseif lease then
    redis.call('ZREM', k_busy(d.url), evt)
    redis.call('HDEL', k_delivery(evt), 'inflight')
    send(evt, now, now)
    sent[#sent + 1] = evt
  elseif redis.call('ZSCORE', k_waiting(d.url), evt) and redis.call('ZCOUNT', k_busy(d.url), '(' .. now, '+inf') > 0 then
    redis.call('ZADD', k_deliveries(), now + LINE_MS, evt)
  elseif arq_waits(evt, d.ticket) then
    redis.call('ZADD', k_deliveries(), now + slack, evt)
  else
    send(evt, now, now)
    sent[#sent + 1] = evt
  end
end
return sent
