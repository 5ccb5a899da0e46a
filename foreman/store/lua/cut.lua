-- Note that a target left a lane that still has queued jobs.
-- KEYS[1] the pool's prefix
-- ARGV    1 slot  2 lane  3 target
-- returns 1, or 0 when the lane is empty
-- include: clock, lane
local slot, lane, target = ARGV[1], ARGV[2], ARGV[3]
if redis.call('EXISTS', k_lane(slot, lane)) == 0 then return 0 end
redis.call('HSET', k_facts(slot, lane), 'left_at:' .. target, clock(), 'cut', '1')
changed(slot, lane)
return 1
