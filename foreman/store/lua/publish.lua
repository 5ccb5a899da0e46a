-- Publish a target's inventory, and keep what its worker has learned of lanes since the last time.
-- KEYS[1] the pool's prefix
-- ARGV    1 target  2 worker  3 target epoch  4 status JSON  5 how many of what follows are pairs lane, learned JSON
--         6… those pairs, then lanes of which nothing is kept any longer
-- returns 1, or 0 when the target is another's by now
local target, worker, epoch, status, pairs_end = ARGV[1], ARGV[2], ARGV[3], ARGV[4], 5 + tonumber(ARGV[5])
local DAY_MS, MONTH_MS = 86400000, 2592000000
local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
if own[1] ~= worker or own[2] ~= epoch then return 0 end
redis.call('SET', k_status(target), status, 'PX', DAY_MS)
redis.call('SADD', k_targets(), target)
redis.call('PEXPIRE', k_targets(), DAY_MS)
if pairs_end > 5 then
  redis.call('HSET', k_learned(target), unpack(ARGV, 6, pairs_end))
  redis.call('PEXPIRE', k_learned(target), MONTH_MS)
end
if #ARGV > pairs_end then redis.call('HDEL', k_learned(target), unpack(ARGV, pairs_end + 1)) end
return 1
