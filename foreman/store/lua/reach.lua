-- Note which living gateways a worker can't reach; a lease that is over is not begun anew by it.
-- KEYS[1] the pool's prefix
-- ARGV    1 worker  2 ids of gateways, JSON list
-- returns 1, or 0 when the lease is over
-- include: clock, presence
local worker, unreachable = ARGV[1], ARGV[2]
if not lives(k_workers(), worker, clock()) then return 0 end
redis.call('HSET', k_worker(worker), 'unreachable', unreachable)
return 1
