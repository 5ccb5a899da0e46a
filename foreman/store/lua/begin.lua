-- Begin an attempt at a delivery: the one right to make it, for a lease.
-- 1. not this ticket's any more  2. its first moment has not come  3. the receiver has as many as it bears, or this job's
-- last attempt still runs there: it waits for that end  4. the receiver failed too often: no attempt but one each gap,
-- a terminal event's last, and what somebody asked for  5. begun
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 attempts at once per URL  4 lease ms  5 delay of the first attempt ms
--         6 attempts in the schedule  7 failures in a row that count as broken  8 gap ms between attempts at a broken one
-- returns {'stale'}, {'later'}, or {'go' | 'broken', now ms, body or '', flat record}
-- include: clock, outbox
local evt, ticket, limit, lease, first = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local attempts, broken, gap = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])
local now = clock()
local d = delivery_read(evt)

if not d or d.ticket ~= ticket or (d.ending and not d.again) then return {'stale'} end
local busy = k_busy(d.url)
redis.call('ZREMRANGEBYSCORE', busy, '-inf', now)
if redis.call('ZSCORE', busy, evt) then return {'stale'} end
if not d.again and d.tries == 0 and now < d.time + first then
  send(evt, d.time + first, now)
  return {'later'}
end

local full = redis.call('ZCARD', busy) >= limit
for _, other in ipairs(redis.call('ZRANGE', busy, 0, -1)) do
  full = full or string.sub(other, 1, string.len(d.job) + 5) == 'evt_' .. d.job .. '_'
end
if full then
  line_up(evt, d.url, now)
  return {'later'}
end

local state = redis.call('HMGET', k_receiver(d.url), 'failures', 'probe_at')
local word = 'go'
if tonumber(state[1] or '0') >= broken then
  if tonumber(state[2] or '0') > now and not d.again and not (d.last and d.tries + 1 >= attempts) then
    word = 'broken'
  else
    redis.call('HSET', k_receiver(d.url), 'probe_at', now + gap)
  end
end
redis.call('ZREM', k_waiting(d.url), evt)
redis.call('ZADD', busy, now + lease, evt)
redis.call('PEXPIRE', busy, RECEIVER_MS)
redis.call('HSET', k_delivery(evt), 'inflight', ticket)
redis.call('ZADD', k_deliveries(), now + lease, evt)
return {word, now, redis.call('GET', k_delivery_body(evt)) or '', redis.call('HGETALL', k_delivery(evt))}
