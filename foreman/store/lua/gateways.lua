-- The living gateways.
-- KEYS[1] the pool's prefix
-- returns {{id, hash flat…}, …}
-- include: clock
local reply = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', k_gateways(), '(' .. clock(), '+inf')) do
  reply[#reply + 1] = {id, unpack(redis.call('HGETALL', k_gateway(id)))}
end
return reply
