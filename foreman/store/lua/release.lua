-- Give a target up: it is free, and leaves the list of targets; jobs still running there go back, no attempt used.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 target  7 worker  8 target epoch
-- returns 1, or 0 when it was another's already
-- include: rules, clock, job, gone
local target, worker, epoch = ARGV[6], ARGV[7], ARGV[8]
local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
if own[1] ~= worker or own[2] ~= epoch then return 0 end
worker_jobs_back(worker, target, clock(), 'released', '', false, -1, {})
redis.call('DEL', k_target(target), k_status(target))
redis.call('SREM', k_targets(), target)
redis.call('SREM', k_worker_targets(worker), target)
return 1
