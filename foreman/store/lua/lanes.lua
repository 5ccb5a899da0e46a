-- The lanes that have queued jobs, for people: how many there are, and some of them in full: those that hold the most, and
-- those that are due first. With a word to look for: those whose model or key has it.
-- KEYS[1] the pool's prefix
-- ARGV    1 how many in full  2 a word in lower case, or ''
-- returns {now ms, lanes, jobs in them, {slot, lane, model, depth, head due ms, its class, the oldest's begin of waiting ms,
--          the head's place in its slot by due, when a target last cut it ms or 0}, …}
-- include: clock
local most, word = tonumber(ARGV[1]), ARGV[2]
local SCANNED = 10000 -- jobs looked at in all for the oldest of each lane; beyond, the head speaks for its lane
local DUE, PAGE = 2000, 200 -- jobs looked at, earliest due first, for the lanes that are due first
local now = clock()
local found, of, jobs = {}, {drain = {}, embed = {}}, 0

local function fits(slot, lane)
  if word == '' or string.find(string.lower(lane), word, 1, true) then return true end
  return string.find(string.lower(redis.call('HGET', k_facts(slot, lane), 'model') or ''), word, 1, true)
end

for slot, lanes in pairs(of) do
  for _, lane in ipairs(redis.call('SMEMBERS', k_lanes(slot))) do
    if fits(slot, lane) then
      local one = {slot = slot, lane = lane, depth = redis.call('ZCARD', k_lane(slot, lane))}
      jobs = jobs + one.depth
      lanes[lane] = one
      found[#found + 1] = one
    end
  end
end

local shown = {}
local function show(one)
  if one and not one.shown and #shown < most then
    one.shown = true
    shown[#shown + 1] = one
  end
end

-- The deepest: a short sorted list, since sorting them all takes long.
local deepest, half = {}, math.ceil(most / 2)
local function deeper(a, b) return a.depth > b.depth or (a.depth == b.depth and a.lane < b.lane) end
for _, one in ipairs(found) do
  if #deepest < half or deeper(one, deepest[half]) then
    local at = #deepest + 1
    while at > 1 and deeper(one, deepest[at - 1]) do at = at - 1 end
    table.insert(deepest, at, one)
    deepest[half + 1] = nil
  end
end
for _, one in ipairs(deepest) do show(one) end

-- Those that are due first, then whatever there is.
local enough = math.min(most, #found)
for first = 0, DUE - PAGE, PAGE do
  if #shown == enough then break end
  local due = {}
  for slot in pairs(of) do
    local page = redis.call('ZRANGE', k_queued(slot), first, first + PAGE - 1, 'WITHSCORES')
    for i = 1, #page, 2 do due[#due + 1] = {page[i], tonumber(page[i + 1]), slot} end
  end
  table.sort(due, function(a, b) return a[2] < b[2] or (a[2] == b[2] and a[1] < b[1]) end)
  for _, job in ipairs(due) do show(of[job[3]][redis.call('HGET', k_job(job[1]), 'lane') or '']) end
end
for _, one in ipairs(found) do show(one) end

local function since(id)
  local v = redis.call('HMGET', k_job(id), 'created_at', 'not_before', 'priority')
  return math.max(tonumber(v[1] or now), tonumber(v[2] or 0)), v[3] or '1'
end

-- When one of the targets last left it with jobs in it.
local function cut_at(facts)
  local last = 0
  for field = 1, #facts, 2 do
    if string.sub(facts[field], 1, 8) == 'left_at:' then last = math.max(last, tonumber(facts[field + 1])) end
  end
  return last
end

local scanned = 0
local reply = {now, #found, jobs}
for _, one in ipairs(shown) do
  local head = redis.call('ZRANGE', k_lane(one.slot, one.lane), 0, 0, 'WITHSCORES')
  one.head, one.due = head[1] or '', tonumber(head[2] or now)
  local first = one.head -- ids sort by arrival
  if scanned + one.depth <= SCANNED then
    scanned = scanned + one.depth
    for _, id in ipairs(redis.call('ZRANGE', k_lane(one.slot, one.lane), 0, -1)) do
      if id < first then first = id end
    end
  end
  local oldest, class = since(one.head)
  if first ~= one.head then oldest = math.min(oldest, (since(first))) end
  local known = redis.call('HMGET', k_facts(one.slot, one.lane), 'model', 'cut')
  reply[#reply + 1] = {
    one.slot, one.lane, known[1] or '', one.depth, one.due, class, oldest,
    redis.call('ZRANK', k_queued(one.slot), one.head) or 0,
    known[2] and cut_at(redis.call('HGETALL', k_facts(one.slot, one.lane))) or 0,
  }
end
return reply
