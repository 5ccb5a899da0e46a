-- A queued job's place among all queued jobs of its slot, and among those of its lane, by due; and how many are in flight.
-- KEYS[1] the pool's prefix
-- ARGV    1 id
-- returns {1 for the next, jobs of its lane before it, jobs in loading and working}, false when it isn't queued
local id = ARGV[1]
local v = redis.call('HMGET', k_job(id), 'slot', 'lane')
local rank = v[1] and redis.call('ZRANK', k_queued(v[1]), id)
if not rank then return false end
return {
  rank + 1, redis.call('ZRANK', k_lane(v[1], v[2]), id) or 0,
  redis.call('ZCARD', k_running('loading')) + redis.call('ZCARD', k_running('working')),
}
