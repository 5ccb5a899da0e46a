-- The head of a resident lane, where no other lane of the slot waits: what every choice comes to then, in one round trip.
-- Wherever there is something to choose, what has changed instead.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 slot  7 target  8 worker  9 target epoch  10 error of a job past its deadline, JSON
--         11 cursor of the last look at the lanes  12… resident lanes with a free place
-- returns {1, {now ms, id, request, {record, flat}}, 1 when more of the lane waits}, {0, changes}, or 'fenced'
-- include: claiming, surveying
local slot, target, worker, own_epoch, late = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local cursor = ARGV[11]
local now = clock()

local function only_resident()
  if redis.call('SCARD', k_lanes(slot)) ~= 1 then return nil end
  local lane = redis.call('SMEMBERS', k_lanes(slot))[1]
  for i = 12, #ARGV do
    if ARGV[i] == lane then
      return not held_back(slot, lane, target, now) and lane or nil
    end
  end
  return nil
end

if not owns(target, worker, own_epoch, now) then return 'fenced' end
local lane = only_resident()
local taken = lane and claim_head(slot, lane, target, worker, 'working', now, late)
if taken then return {1, taken, redis.call('EXISTS', k_lane(slot, lane))} end
return {0, changes(slot, now, cursor)}
