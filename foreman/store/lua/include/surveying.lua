-- include: pausing
-- What waits in a slot, lane by lane.

-- The target that alone may take what stands first in a lane; '' where some of it may run elsewhere too.
local function only_of(slot, lane, only)
  if not only or only == '' then return '' end
  for _, id in ipairs(redis.call('ZRANGE', k_lane(slot, lane), 1, 63)) do
    if redis.call('HGET', k_job(id), 'target_only') ~= only then return '' end
  end
  return only
end

-- Returns {now ms, {lane, head id, head due ms, head class, head created ms, its only target or '', facts flat…}, …}
local function survey(slot, now)
  local reply = {now}
  local anything_paused = redis.call('EXISTS', k_pauses()) == 1
  for _, lane in ipairs(redis.call('SMEMBERS', k_lanes(slot))) do
    local head = redis.call('ZRANGE', k_lane(slot, lane), 0, 0, 'WITHSCORES')
    if head[1] then
      local job = redis.call('HMGET', k_job(head[1]), 'priority', 'created_at', 'target_only')
      local facts = redis.call('HGETALL', k_facts(slot, lane))
      if anything_paused and paused('lane', lane, now) then
        facts[#facts + 1] = 'paused'
        facts[#facts + 1] = '1'
      end
      local only = only_of(slot, lane, job[3])
      reply[#reply + 1] = {lane, head[1], head[2], job[1] or '1', job[2] or '0', only, unpack(facts)}
    end
  end
  return reply
end
