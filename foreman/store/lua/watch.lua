-- Have a gateway told of a job's end, through its inbox.
-- KEYS[1] the pool's prefix
-- ARGV    1 id  2 gateway
-- returns the state it is in now, or false where it is unknown
local id, gateway = ARGV[1], ARGV[2]
local v = redis.call('HMGET', k_job(id), 'state', 'watchers')
local state, watchers = v[1], v[2] or ''
if not state or state == 'done' or state == 'failed' or state == 'cancelled' then return state end
if not string.find('\n' .. watchers .. '\n', '\n' .. gateway .. '\n', 1, true) then
  redis.call('HSET', k_job(id), 'watchers', watchers == '' and gateway or watchers .. '\n' .. gateway)
end
return state
