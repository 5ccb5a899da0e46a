-- include: pausing
-- What waits in a slot, lane by lane.

-- The target that alone may take what waits in a lane; '' where some of it may run elsewhere too.
local function only_of(slot, lane, only)
  if not only then return '' end
  local asked = tonumber(redis.call('HGET', k_facts(slot, lane), 'only:' .. only) or '0')
  return asked == redis.call('ZCARD', k_lane(slot, lane)) and only or ''
end

-- Returns {lane, head id, head due ms, head class, head created ms, its only target or '', facts flat…}; {lane} where
-- nothing of it is queued.
local function lane_entry(slot, lane, now, anything_paused)
  local head = redis.call('ZRANGE', k_lane(slot, lane), 0, 0, 'WITHSCORES')
  if not head[1] then return {lane} end
  local job = redis.call('HMGET', k_job(head[1]), 'priority', 'created_at', 'target_only')
  local facts = redis.call('HGETALL', k_facts(slot, lane))
  if anything_paused and paused('lane', lane, now) then
    facts[#facts + 1] = 'paused'
    facts[#facts + 1] = '1'
  end
  return {lane, head[1], head[2], job[1] or '1', job[2] or '0', only_of(slot, lane, job[3]), unpack(facts)}
end

-- All lanes: {now ms, entry, …}.
local function survey(slot, now)
  local reply = {now}
  local anything_paused = redis.call('EXISTS', k_pauses()) == 1
  for _, lane in ipairs(redis.call('SMEMBERS', k_lanes(slot))) do
    reply[#reply + 1] = lane_entry(slot, lane, now, anything_paused)
  end
  return reply
end

-- What has changed in the drain's lanes since `cursor`, what this returned last time ('' for never): {now ms, cursor,
-- 1 where these are all lanes there are, 0 where only those that changed, the pauses as HGETALL, entry, …}
local function changes(slot, now, cursor)
  local log, most = k_changes(slot), 1000
  local since = cursor ~= '' and redis.call('XRANGE', log, cursor, '+', 'COUNT', most + 1) or {}
  local reply = {now, cursor, 0, redis.call('HGETALL', k_pauses())}
  local lanes, seen = {}, {}
  if since[1] and since[1][1] == cursor and #since <= most then
    reply[2] = since[#since][1]
    for number = 2, #since do
      local lane = since[number][2][2]
      if not seen[lane] then
        seen[lane] = true
        lanes[#lanes + 1] = lane
      end
    end
  else
    local last = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    reply[2] = last and last[1] or ''
    reply[3] = 1
    lanes = redis.call('SMEMBERS', k_lanes(slot))
  end
  for _, lane in ipairs(lanes) do reply[#reply + 1] = lane_entry(slot, lane, now, false) end
  return reply
end
