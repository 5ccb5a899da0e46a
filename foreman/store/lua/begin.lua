-- Begin an attempt at a delivery: the one right to make it, for a lease.
-- 1. not this ticket's any more, or its place has been given on  2. its first moment has not come  3. begun: arq forgets it,
-- which else looks at all that it runs each time it looks for more
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 lease ms  4 delay of the first attempt ms
-- returns {'stale'}, {'later'}, or {'go', now ms, body or '', flat record}
-- include: clock, outbox
local evt, ticket, lease, first = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = clock()
local d = delivery_read(evt)

if not d or d.ticket ~= ticket or d.inflight or (d.ending and not d.again) then return {'stale'} end
if not redis.call('ZSCORE', k_busy(d.url), evt) then return {'stale'} end
if not d.again and d.tries == 0 and now < d.time + first then
  give_place_back(d)
  line_up(evt, d.url, d.time + first)
  fill_next(d.url, now)
  return {'later'}
end
hold_place(d, now + lease)
redis.call('HSET', k_delivery(evt), 'inflight', ticket)
redis.call('ZREM', k_arq(), arq_id(evt, ticket))
redis.call('DEL', 'arq:job:' .. arq_id(evt, ticket))
return {'go', now, redis.call('GET', k_delivery_body(evt)) or '', redis.call('HGETALL', k_delivery(evt))}
