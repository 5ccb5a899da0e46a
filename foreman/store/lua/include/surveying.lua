-- What waits in a slot, lane by lane.

-- Returns {now ms, {lane, head id, head due ms, head class, head created ms, facts flat…}, …}
local function survey(slot, now)
  local reply = {now}
  for _, lane in ipairs(redis.call('SMEMBERS', k_lanes(slot))) do
    local head = redis.call('ZRANGE', k_lane(slot, lane), 0, 0, 'WITHSCORES')
    if head[1] then
      local job = redis.call('HMGET', k_job(head[1]), 'priority', 'created_at')
      local facts = redis.call('HGETALL', k_facts(slot, lane))
      reply[#reply + 1] = {lane, head[1], head[2], job[1] or '1', job[2] or '0', unpack(facts)}
    end
  end
  return reply
end
