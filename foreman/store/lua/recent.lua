-- How the last runs of lanes went.
-- KEYS[1] the pool's prefix
-- ARGV    lanes
-- returns per lane: lines of state, code, ttft ms, tpot ms, queued ms, caller, joined by newlines; the newest first
local reply = {}
for number, lane in ipairs(ARGV) do reply[number] = redis.call('LRANGE', k_recent(lane), 0, 31) end
return reply
