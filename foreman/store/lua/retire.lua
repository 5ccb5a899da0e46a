-- End a worker's lease and its targets at once; jobs it still holds go back without using up an attempt.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 worker
-- returns the ids of the jobs that went back
-- include: rules, clock, job, gone
local worker = ARGV[6]
local moved = {}
worker_jobs_back(worker, nil, clock(), 'retired', '', false, -1, moved)
bury_worker(worker)
return moved
