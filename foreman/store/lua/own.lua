-- Become a target's owner unless a living worker is: a new target epoch; what older ones still run goes back at once.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 target  7 worker  8 error JSON of a lost worker
-- returns the epoch, 0 when another living worker owns it, 'fenced' when the asking worker has no lease
-- include: rules, clock, job, presence, gone
local target, worker, err = ARGV[6], ARGV[7], ARGV[8]
local now = clock()
if not lives(k_workers(), worker, now) then return 'fenced' end
local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
if own[1] == worker then return tonumber(own[2]) end
if own[1] then
  if lives(k_workers(), own[1], now) then return 0 end
  worker_jobs_back(own[1], target, now, 'interrupted', err, true, -1, {})
  redis.call('SREM', k_worker_targets(own[1]), target)
end
local epoch = redis.call('INCR', k_epochs())
redis.call('HSET', k_target(target), 'owner', worker, 'epoch', epoch, 'since', now)
redis.call('SADD', k_worker_targets(worker), target)
redis.call('DEL', k_orphaned(target))
post('worker', worker, {verb = 'wake', target = target})
return epoch
