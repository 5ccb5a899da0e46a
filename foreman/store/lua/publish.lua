-- Publish a target's inventory.
-- KEYS[1] the pool's prefix
-- ARGV    1 target  2 worker  3 target epoch  4 status JSON
-- returns 1, or 0 when the target is another's by now
local target, worker, epoch, status = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local DAY_MS = 86400000
local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
if own[1] ~= worker or own[2] ~= epoch then return 0 end
redis.call('SET', k_status(target), status, 'PX', DAY_MS)
redis.call('SADD', k_targets(), target)
redis.call('PEXPIRE', k_targets(), DAY_MS)
return 1
