-- What was counted and timed since the pool began, with what /metrics says of this moment beside it.
-- KEYS[1] the pool's prefix
-- returns {now ms, meters flat, ledger flat, open deliveries, since when the longest-waiting one has its turn in ms or '',
--          pauses}
-- include: clock, pausing
local now = clock()
local first = redis.call('ZRANGE', k_deliveries(), 0, 0, 'WITHSCORES')
return {
  now, redis.call('HGETALL', k_meters()), redis.call('HGETALL', k_ledger()), redis.call('ZCARD', k_deliveries()),
  first[2] or '', #tidy_pauses(now),
}
