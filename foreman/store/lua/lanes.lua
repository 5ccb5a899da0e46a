-- The lanes that have queued jobs, for people: how many there are, and some of them in full: those that hold the most, and
-- those that are due first. With a word to look for: those whose model or key has it.
-- KEYS[1] the pool's prefix
-- ARGV    1 how many in full  2 a word in lower case, or ''
-- returns {now ms, lanes, jobs in them, {slot, lane, model, depth, head due ms, its class, the oldest's begin of waiting ms,
--          the head's place in its slot by due}, …}
-- include: clock
local most, word = tonumber(ARGV[1]), ARGV[2]
local SCANNED = 10000 -- jobs looked at in all for the oldest of each lane; beyond, the head speaks for its lane
local now = clock()
local found, jobs = {}, 0

local function fits(slot, lane)
  if word == '' or string.find(string.lower(lane), word, 1, true) then return true end
  return string.find(string.lower(redis.call('HGET', k_facts(slot, lane), 'model') or ''), word, 1, true)
end

for _, slot in ipairs({'drain', 'embed'}) do
  for _, lane in ipairs(redis.call('SMEMBERS', k_lanes(slot))) do
    if fits(slot, lane) then
      local head = redis.call('ZRANGE', k_lane(slot, lane), 0, 0, 'WITHSCORES')
      if head[1] then
        local depth = redis.call('ZCARD', k_lane(slot, lane))
        jobs = jobs + depth
        found[#found + 1] = {slot = slot, lane = lane, depth = depth, head = head[1], due = tonumber(head[2])}
      end
    end
  end
end

local shown = {}
local function show(before, upto)
  table.sort(found, before)
  for _, one in ipairs(found) do
    if #shown >= upto then return end
    if not one.shown then
      one.shown = true
      shown[#shown + 1] = one
    end
  end
end
show(function(a, b) return a.depth > b.depth or (a.depth == b.depth and a.lane < b.lane) end, math.ceil(most / 2))
show(function(a, b) return a.due < b.due or (a.due == b.due and a.lane < b.lane) end, most)

local function since(id)
  local v = redis.call('HMGET', k_job(id), 'created_at', 'not_before')
  return math.max(tonumber(v[1] or now), tonumber(v[2] or 0))
end

local scanned = 0
local reply = {now, #found, jobs}
for _, one in ipairs(shown) do
  local first = one.head -- ids sort by arrival
  if scanned + one.depth <= SCANNED then
    scanned = scanned + one.depth
    for _, id in ipairs(redis.call('ZRANGE', k_lane(one.slot, one.lane), 0, -1)) do
      if id < first then first = id end
    end
  end
  local oldest = math.min(since(one.head), since(first))
  reply[#reply + 1] = {
    one.slot, one.lane, redis.call('HGET', k_facts(one.slot, one.lane), 'model') or '', one.depth, one.due,
    redis.call('HGET', k_job(one.head), 'priority') or '1', oldest,
    redis.call('ZRANK', k_queued(one.slot), one.head) or 0,
  }
end
return reply
