-- Keep a gateway's presence; a new one is made known to all workers, so that they link to it.
-- KEYS[1] the pool's prefix
-- ARGV    1 gateway  2 lease ms  3… what it says of itself, flat
-- returns 1 for a new one, else 0
-- include: clock, message, presence
local gateway, lease = ARGV[1], tonumber(ARGV[2])
local now = clock()
breathe(now, lease)
local new = redis.call('EXISTS', k_gateway(gateway)) == 0
redis.call('ZADD', k_gateways(), now + lease, gateway)
redis.call('HSET', k_gateway(gateway), unpack(ARGV, 3))
redis.call('PEXPIRE', k_gateway(gateway), 60000)
if new then
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', k_workers(), '(' .. now, '+inf')) do
    post('worker', worker, {verb = 'gateways'})
  end
end
return new and 1 or 0
