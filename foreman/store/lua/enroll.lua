-- Begin a worker's lease, or change what a living worker says of itself. What an earlier life of the same id held goes back.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 worker  7 lease ms  8 error JSON of a lost worker  9… what it says of itself, flat
-- returns 1 for a new lease, 0 for a living one
-- include: rules, clock, job, presence, gone
local worker, lease, err = ARGV[6], tonumber(ARGV[7]), ARGV[8]
local now = clock()
local new = 0
breathe(now, lease)
if not lives(k_workers(), worker, now) then
  new = 1
  worker_jobs_back(worker, nil, now, 'interrupted', err, true, -1, {})
  bury_worker(worker)
  redis.call('ZADD', k_workers(), now + lease, worker)
  redis.call('HSET', k_worker(worker), 'since', now)
end
redis.call('HSET', k_worker(worker), unpack(ARGV, 9))
return new
