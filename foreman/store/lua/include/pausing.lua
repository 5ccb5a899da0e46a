-- What operators paused. Whether a pause still holds is judged by the clock: one that was made for a time ends by itself,
-- whoever is alive then; `tidy_pauses` takes what is over out of the list.

-- what: lane or target. Returns {till = ms or 0, unload = 0 or 1, since = ms}, nil where it isn't paused.
local function paused(what, name, now)
  local text = redis.call('HGET', k_pauses(), what .. ':' .. name)
  if not text then return nil end
  local till, unload, since = string.match(text, '^(%d+) (%d) (%d+)$')
  till = tonumber(till)
  if not till or (till > 0 and till <= now) then return nil end
  return {till = till, unload = tonumber(unload), since = tonumber(since)}
end

-- Whether nothing of this lane may start on this target now. What runs beside both, show and model management, may.
local function held_back(slot, lane, target, now)
  if slot == 'side' or redis.call('EXISTS', k_pauses()) == 0 then return false end
  return paused('lane', lane, now) ~= nil or paused('target', target, now) ~= nil
end

-- Whether there is such a lane or target: paused, listed, with jobs in line, or seen by who asks (one that only runs, say).
local function exists(what, name, before, seen)
  if before or seen == '1' then return true end
  if what == 'target' then return redis.call('SISMEMBER', k_targets(), name) == 1 end
  return redis.call('SISMEMBER', k_lanes('drain'), name) == 1 or redis.call('SISMEMBER', k_lanes('embed'), name) == 1
end

-- The pauses that hold: {{what, name, till, unload, since}, …}; the others are taken out.
local function tidy_pauses(now)
  local found = {}
  for _, field in ipairs(redis.call('HKEYS', k_pauses())) do
    local what, name = string.match(field, '^(%l+):(.*)$')
    local pause = what and paused(what, name, now)
    if pause then
      found[#found + 1] = {what, name, pause.till, pause.unload, pause.since}
    else
      redis.call('HDEL', k_pauses(), field)
    end
  end
  return found
end
