-- Take a target off the list of targets, unless a living worker owns it.
-- KEYS[1] the pool's prefix
-- ARGV    1 target
-- returns 1, or 0 when it is owned or wasn't listed
-- include: clock, presence
local target = ARGV[1]
local owner = redis.call('HGET', k_target(target), 'owner')
if owner and lives(k_workers(), owner, clock()) then return 0 end
redis.call('DEL', k_status(target), k_orphaned(target))
return redis.call('SREM', k_targets(), target)
