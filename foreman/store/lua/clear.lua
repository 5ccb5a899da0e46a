-- Cancel queued jobs of a lane, at most so many: the first in line first. A job whose time has not come stands in no lane
-- and stays.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 lane  7 at most  8 error JSON  9 who  10 jobs cancelled by the steps before
--         11 1 where it ends with this step, whatever is left  12 1 where somebody has seen the lane
-- returns {cancelled by this step, left}, or 'unknown'
-- include: rules, clock, job, pausing, audit
local lane, limit, err, who = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9]
local before, last, seen = tonumber(ARGV[10]), ARGV[11] == '1', ARGV[12]
local now = clock()
local done = 0

if before == 0 and not exists('lane', lane, paused('lane', lane, now), seen) then return 'unknown' end
for _, slot in ipairs({'drain', 'embed'}) do
  for _, id in ipairs(redis.call('ZRANGE', k_lane(slot, lane), 0, limit - done - 1)) do
    local j = job_read(id)
    if j and legal(j.state, 'cancelled') and j.state == 'queued' then
      finish(j, 'cancelled', now, 'cleared', err)
      tell_gateway(j)
      done = done + 1
    else
      lane_take(id, slot, lane, false)
    end
  end
  if done >= limit then break end
end
local left = redis.call('ZCARD', k_lane('drain', lane)) + redis.call('ZCARD', k_lane('embed', lane))
if left == 0 or last or before == 0 then
  audited(now, who, 'clear', 'lane', lane, {'cancelled', before + done, 'left', left})
end
return {done, left}
