-- The living workers.
-- KEYS[1] the pool's prefix
-- returns {{id, lease until ms, {targets}, hash flat…}, …}
-- include: clock
local reply = {}
local living = redis.call('ZRANGEBYSCORE', k_workers(), '(' .. clock(), '+inf', 'WITHSCORES')
for i = 1, #living, 2 do
  local id = living[i]
  reply[#reply + 1] = {id, living[i + 1], redis.call('SMEMBERS', k_worker_targets(id)), unpack(redis.call('HGETALL', k_worker(id)))}
end
return reply
