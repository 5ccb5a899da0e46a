-- Send a delivery again, now: the same bytes once more, whatever became of it. One that is still open is tried at once.
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery
-- returns sent | waiting (its attempt runs, or an earlier event's turn comes first) | unknown
-- include: clock, outbox
local evt, now = ARGV[1], clock()
local d = delivery_read(evt)
if not d then return 'unknown' end
if redis.call('ZSCORE', k_busy(d.url), evt) then return 'waiting' end
if not d.ending then
  if redis.call('ZRANGE', k_outbox(d.job), 0, 0)[1] ~= evt then return 'waiting' end
else
  redis.call('HSET', k_delivery(evt), 'again', 1)
  redis.call('PEXPIRE', k_delivery(evt), ENDED_MS)
  redis.call('ZADD', k_deliveries(), now, evt)
end
line_up(evt, d.url, AT_ONCE)
fill(d.url, now)
return 'sent'
