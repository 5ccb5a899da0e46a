-- Note that callers are about to get bytes of this run: from now on the job is never run a second time (see `back`).
-- KEYS[1] the pool's prefix
-- ARGV    1 id  2 epoch  3 what the job ends with should this run be lost, error JSON
-- returns 1, or 0 where the run has lost its right to the job, or the job has ended
local id, epoch, err = ARGV[1], ARGV[2], ARGV[3]
local v = redis.call('HMGET', k_job(id), 'state', 'epoch')
if v[2] ~= epoch or not (v[1] == 'working' or v[1] == 'loading') then return 0 end
redis.call('HSET', k_job(id), 'begun', err)
return 1
