-- A queued job's place among all queued jobs of its slot, by due.
-- KEYS[1] the pool's prefix
-- ARGV    1 id
-- returns 1 for the next, false when it isn't queued
local id = ARGV[1]
local slot = redis.call('HGET', k_job(id), 'slot')
local rank = slot and redis.call('ZRANK', k_queued(slot), id)
return rank and rank + 1
