-- Jobs by state at one moment: the living ones now, the ended ones since the pool began.
-- KEYS[1] the pool's prefix
-- returns {queued, loading, working, done, failed, cancelled}
local queued = 0
for _, slot in ipairs({'drain', 'embed', 'side'}) do
  queued = queued + redis.call('ZCARD', k_queued(slot)) + redis.call('ZCARD', k_delayed(slot))
end
local ended = redis.call('HMGET', k_totals(), 'done', 'failed', 'cancelled')
return {
  queued, redis.call('ZCARD', k_running('loading')), redis.call('ZCARD', k_running('working')),
  tonumber(ended[1] or '0'), tonumber(ended[2] or '0'), tonumber(ended[3] or '0'),
}
