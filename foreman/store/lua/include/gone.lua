-- What the dead leave: a worker's jobs go back, a gateway's callers are gone. Both return how many jobs they moved and
-- stop at `limit`; the dead one stays registered until nothing of it is left.
-- lost: true where the worker vanished (an attempt is used), false where it left in good order.
local function worker_jobs_back(worker, target, now, reason, err, lost, limit, moved)
  local left = limit
  for _, id in ipairs(redis.call('SMEMBERS', k_worker_jobs(worker))) do
    local j = job_read(id)
    if not j or j.worker ~= worker or not legal(j.state, 'queued') then
      redis.call('SREM', k_worker_jobs(worker), id)
    elseif not target or j.target == target then
      if left == 0 then return false end
      left = left - 1
      back(j, now, reason, err, lost, lost)
      tell_gateway(j)
      moved[#moved + 1] = id
    end
  end
  return true
end

-- Its targets have no owner from now on; that is remembered as long as their status.
local ORPHANED_MS = 86400000

local function bury_worker(worker)
  for _, target in ipairs(redis.call('SMEMBERS', k_worker_targets(worker))) do
    if redis.call('HGET', k_target(target), 'owner') == worker then
      redis.call('DEL', k_target(target))
      redis.call('SET', k_orphaned(target), clock(), 'PX', ORPHANED_MS)
    end
  end
  redis.call('DEL', k_worker(worker), k_worker_jobs(worker), k_worker_targets(worker), k_inbox('worker', worker))
  redis.call('ZREM', k_workers(), worker)
end

local function gateway_gone(gateway, now, err, limit, moved)
  for number, id in ipairs(redis.call('SMEMBERS', k_gateway_jobs(gateway))) do
    if number > limit then return false end
    local j = job_read(id)
    if j and j.finish then -- it runs on, for whoever attaches
      redis.call('SREM', k_gateway_jobs(gateway), id)
    elseif j and j.state == 'queued' then
      finish(j, 'cancelled', now, 'caller_gone', err)
      moved[#moved + 1] = id
    elseif j and legal(j.state, 'cancelled') then
      wish(j, now, 'caller_gone', 'cancelled', err)
    end
    redis.call('SREM', k_gateway_jobs(gateway), id)
  end
  redis.call('DEL', k_gateway(gateway), k_gateway_jobs(gateway), k_inbox('gateway', gateway))
  redis.call('ZREM', k_gateways(), gateway)
  return true
end
