-- Give those a last attempt that a broken receiver has put off for longer than their schedule takes.
-- 1. ended  2. it waits for nothing but its receiver: a last attempt, now  3. looked at again later
-- KEYS[1] the pool's prefix
-- ARGV    1 ms that the schedule takes at most  2 how many at most
-- returns the deliveries that are tried for the last time
-- include: clock, outbox
local span, limit = tonumber(ARGV[1]), tonumber(ARGV[2])
local again = math.min(60000, math.floor(span / 10)) -- until one is looked at once more
local now, called = clock(), {}

for _, evt in ipairs(redis.call('ZRANGEBYSCORE', k_deliveries(), '-inf', now - span, 'LIMIT', 0, limit)) do
  local d = delivery_read(evt)
  local since = d and tonumber(redis.call('ZSCORE', k_waiting(d.url), evt) or '')
  if not d or (d.ending and not d.again) then
    redis.call('ZREM', k_deliveries(), evt)
  else
    redis.call('ZADD', k_deliveries(), now - span + again, evt)
    if since and since <= now and redis.call('HEXISTS', k_receiver(d.url), 'probe_at') == 1 then
      redis.call('HSET', k_delivery(evt), 'final', 1)
      line_up(evt, d.url, AT_ONCE)
      fill(d.url, now)
      called[#called + 1] = evt
    end
  end
end
return called
