-- Pause a lane or a target: nothing of it starts any more; what runs goes on to its end. Again: the newer wish holds.
-- KEYS[1] the pool's prefix
-- ARGV    1 lane | target  2 its name  3 for how long in ms, '' until somebody resumes it  4 1 to have a target hold nothing
--         5 who  6 1 where somebody has seen it (a lane that only runs or is only loaded)
-- returns {since ms, until ms or 0}, 'unknown', or 'full' where MOST are paused already
-- include: clock, message, pausing, audit
local MOST = 1000
local what, name, span, unload, who, seen = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5], ARGV[6]
local now = clock()
local before = paused(what, name, now)

if not exists(what, name, before, seen) then return 'unknown' end
if not before and #tidy_pauses(now) >= MOST then return 'full' end
local since, till = before and before.since or now, span and now + span or 0
redis.call('HSET', k_pauses(), what .. ':' .. name, till .. ' ' .. unload .. ' ' .. since)
audited(now, who, 'pause', what, name, {'until', till, 'unload', unload})
if what == 'target' then
  for _, word in ipairs({'drain', 'embed', 'probe'}) do wake_target(name, word) end
end
return {since, till}
