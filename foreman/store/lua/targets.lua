-- All inventories, and since when nobody keeps them.
-- KEYS[1] the pool's prefix
-- returns {now ms, {status JSON, '1' where a living worker owns the target}, …}
-- include: clock, presence
local now = clock()
local reply = {now}
for _, target in ipairs(redis.call('SMEMBERS', k_targets())) do
  local status = redis.call('GET', k_status(target))
  if status then
    local owner = redis.call('HGET', k_target(target), 'owner')
    reply[#reply + 1] = {status, owner and lives(k_workers(), owner, now) and '1' or '0'}
  else
    redis.call('SREM', k_targets(), target)
  end
end
return reply
