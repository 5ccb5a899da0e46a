-- A queued job stands in its lane and in its slot's queue. A lane without jobs is in no list and leaves no facts behind,
-- but those that still count: when it was cut (for FACTS_MS).
-- Each change of a lane of the drain is logged, so that who keeps a list of lanes need not read them all (see surveying).
local FACTS_MS = 3600000
local CHANGES = 1000

local function changed(slot, lane)
  if slot == 'drain' then redis.call('XADD', k_changes(slot), 'MAXLEN', '~', CHANGES, '*', 'lane', lane) end
end

-- So many more jobs of a lane asked for one target, where this one did: whether all of them did, only_of knows by that.
local function count_pinned(facts, id, by)
  local only = redis.call('HGET', k_job(id), 'target_only')
  if only then redis.call('HINCRBY', facts, 'only:' .. only, by) end
end

-- The job's hash must stand: the first job of a lane brings the lane's facts.
local function lane_put(id, slot, lane, priority, due)
  local facts = k_facts(slot, lane)
  redis.call('ZADD', k_lane(slot, lane), due, id)
  redis.call('ZADD', k_queued(slot), due, id)
  changed(slot, lane)
  if redis.call('SADD', k_lanes(slot), lane) == 1 then
    local v = redis.call('HMGET', k_job(id), 'canonical', 'digest', 'options')
    local added = redis.call('HSET', facts, 'model', v[1] or '', 'digest', v[2] or '', 'options', v[3] or '', 'n' .. priority, 1)
    if added < 4 then redis.call('PERSIST', facts) end -- some stood there: of a lane that was cut, they have a TTL
  else
    redis.call('HINCRBY', facts, 'n' .. priority, 1)
  end
  count_pinned(facts, id, 1)
end

-- priority: false for a job whose record was lost.
local function lane_take(id, slot, lane, priority)
  local facts = k_facts(slot, lane)
  redis.call('ZREM', k_lane(slot, lane), id)
  redis.call('ZREM', k_queued(slot), id)
  changed(slot, lane)
  if redis.call('EXISTS', k_lane(slot, lane)) == 0 then
    redis.call('SREM', k_lanes(slot), lane)
    if not redis.call('HGET', facts, 'cut') then return redis.call('DEL', facts) end
    redis.call('PEXPIRE', facts, FACTS_MS)
  end
  if priority then
    redis.call('HINCRBY', facts, 'n' .. priority, -1)
    count_pinned(facts, id, -1)
  end
end
