-- Bring back what the dead left; everybody runs me each half second, any number at once. At most BATCH jobs of a kind.
-- 1. expired workers  2. running jobs without a living worker; wishes to cancel that were not heard  3. dead gateways
-- 4. jobs past their deadline  5. jobs whose `not_before` has come  6. what is kept no longer leaves the lists
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 lease ms  7–9 error JSON of a lost worker, a caller that is gone, a missed deadline
-- returns the ids of the jobs that were moved
-- include: rules, clock, job, presence, gone
local BATCH, AGAIN_MS = 100, 1000
local lease, interrupted, caller_gone, late = tonumber(ARGV[6]), ARGV[7], ARGV[8], ARGV[9]
local now = clock()
local moved = {}
breathe(now, lease)

for _, worker in ipairs(redis.call('ZRANGEBYSCORE', k_workers(), '-inf', now, 'LIMIT', 0, 10)) do
  if worker_jobs_back(worker, nil, now, 'interrupted', interrupted, true, BATCH, moved) then bury_worker(worker) end
end

for _, state in ipairs({'loading', 'working'}) do
  local pages = math.max(1, math.ceil(redis.call('ZCARD', k_running(state)) / BATCH))
  local first = math.floor(now / 500) % pages * BATCH
  for _, id in ipairs(redis.call('ZRANGE', k_running(state), first, first + BATCH - 1)) do
    local v = redis.call('HMGET', k_job(id), 'worker', 'cancel_reason', 'cancel_sent', 'epoch', 'target')
    if not v[1] or not redis.call('ZSCORE', k_workers(), v[1]) then
      local j = job_read(id)
      if j and legal(j.state, 'queued') then
        back(j, now, 'interrupted', interrupted, true, true)
        tell_gateway(j)
        moved[#moved + 1] = id
      else
        redis.call('ZREM', k_running(state), id)
      end
    elseif v[2] and tonumber(v[3]) + AGAIN_MS <= now then
      redis.call('HSET', k_job(id), 'cancel_sent', now)
      post('worker', v[1], {verb = 'cancel', job_id = id, epoch = tonumber(v[4]), code = v[2], target = v[5]})
    end
  end
end

for _, gateway in ipairs(redis.call('ZRANGEBYSCORE', k_gateways(), '-inf', now, 'LIMIT', 0, 10)) do
  gateway_gone(gateway, now, caller_gone, BATCH, moved)
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', k_deadlines(), '-inf', now, 'LIMIT', 0, BATCH)) do
  local j = job_read(id)
  if j and j.state == 'queued' then
    finish(j, 'failed', now, 'deadline_exceeded', late)
    tell_gateway(j)
    moved[#moved + 1] = id
  elseif j and legal(j.state, 'failed') then
    wish(j, now, 'deadline_exceeded', 'failed', late)
  end
  redis.call('ZREM', k_deadlines(), id)
end

for _, slot in ipairs({'drain', 'embed', 'side'}) do
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', k_delayed(slot), '-inf', now, 'LIMIT', 0, BATCH)) do
    local j = job_read(id)
    redis.call('ZREM', k_delayed(slot), id)
    if j and j.state == 'queued' then
      lane_put(id, slot, j.lane, j.priority, j.due)
      wake(j.targets, j.target_only, slot)
    end
  end
end

for _, state in ipairs({'done', 'failed', 'cancelled'}) do
  forget(k_ended('sync', state), now - SYNC_MS)
  forget(k_ended('async', state), now - ASYNC_MS)
end
return moved
