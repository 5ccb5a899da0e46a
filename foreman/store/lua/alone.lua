-- Bury everybody, and the inventories of targets nobody will look after: only for the process that has just started the
-- store for itself, where no one else can live.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6–7 error JSON of a lost worker, a caller that is gone  8… the targets there are from now on
-- returns the ids of the jobs that were moved
-- include: rules, clock, job, gone
local interrupted, caller_gone = ARGV[6], ARGV[7]
local now = clock()
local moved = {}
for _, worker in ipairs(redis.call('ZRANGE', k_workers(), 0, -1)) do
  worker_jobs_back(worker, nil, now, 'interrupted', interrupted, true, -1, moved)
  bury_worker(worker)
end
for _, gateway in ipairs(redis.call('ZRANGE', k_gateways(), 0, -1)) do
  gateway_gone(gateway, now, caller_gone, math.huge, moved)
end
local wanted = {}
for i = 8, #ARGV do wanted[ARGV[i]] = true end
for _, target in ipairs(redis.call('SMEMBERS', k_targets())) do
  if not wanted[target] then
    redis.call('DEL', k_status(target), k_orphaned(target))
    redis.call('SREM', k_targets(), target)
  end
end
return moved
