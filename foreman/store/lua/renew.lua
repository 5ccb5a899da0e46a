-- Prolong a worker's lease.
-- KEYS[1] the pool's prefix
-- ARGV    1 worker  2 lease ms
-- returns 1, or 0 when the lease is over: enrol anew, everything held under it belongs to others
-- include: clock, presence
local worker, lease = ARGV[1], tonumber(ARGV[2])
local now = clock()
breathe(now, lease)
if not lives(k_workers(), worker, now) then return 0 end
redis.call('ZADD', k_workers(), now + lease, worker)
return 1
