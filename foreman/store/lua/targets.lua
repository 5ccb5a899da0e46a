-- All inventories, since when nobody keeps them, and what an operator paused.
-- KEYS[1] the pool's prefix
-- returns {now ms, {status JSON, since when no living worker owns the target in ms, '' where one does,
--          since when it is paused in ms or '', until when in ms or 0, 1 where it is to hold nothing meanwhile}, …}
-- include: clock, presence, pausing
local now = clock()
local reply = {now}
for _, target in ipairs(redis.call('SMEMBERS', k_targets())) do
  local status = redis.call('GET', k_status(target))
  if status then
    local owner = redis.call('HGET', k_target(target), 'owner')
    local since = ''
    if not owner then
      since = redis.call('GET', k_orphaned(target)) or '0'
    elseif not lives(k_workers(), owner, now) then
      since = redis.call('ZSCORE', k_workers(), owner) or '0'
    end
    local pause = paused('target', target, now)
    reply[#reply + 1] = {status, since, pause and pause.since or '', pause and pause.till or 0, pause and pause.unload or 0}
  else
    redis.call('SREM', k_targets(), target)
  end
end
return reply
