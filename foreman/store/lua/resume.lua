-- Let a paused lane or target go on. One that isn't paused is left as it is.
-- KEYS[1] the pool's prefix
-- ARGV    1 lane | target  2 its name  3 who  4 1 where somebody has seen it
-- returns 1, 0 where it was not paused, 'unknown'
-- include: clock, message, pausing, audit
local what, name, who, seen = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now = clock()
local before = paused(what, name, now)

if not exists(what, name, before, seen) then return 'unknown' end
redis.call('HDEL', k_pauses(), what .. ':' .. name)
audited(now, who, 'resume', what, name, {'changed', before and 1 or 0})
for _, target in ipairs(what == 'target' and {name} or redis.call('SMEMBERS', k_targets())) do
  for _, word in ipairs({'drain', 'embed', 'probe'}) do wake_target(target, word) end
end
return before and 1 or 0
