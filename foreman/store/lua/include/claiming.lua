-- include: rules, clock, job, presence, pausing
-- How a worker gets a job; claim, take and submit share it.

local function owns(target, worker, epoch, now)
  local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
  return own[1] == worker and own[2] == epoch and lives(k_workers(), worker, now)
end

-- The job is the worker's, in state `to`: epoch + 1, event, the worker's own list.
local function give(j, target, worker, to, now)
  j.epoch = j.epoch + 1
  j.worker = worker
  local more = {'epoch', j.epoch, 'worker', worker, 'target', target, 'claimed_at', now}
  if to == 'working' and not j.started_at then
    more[#more + 1] = 'started_at'
    more[#more + 1] = now
  end
  record(j, to, now, 'claimed', more)
  redis.call('ZADD', k_running(to), now, j.id)
  redis.call('SADD', k_worker_jobs(worker), j.id)
end

-- The first job of the lane that may run here. Jobs that asked for
-- another target are passed over, however many, and calls that wait at a gateway this worker can't reach (most often it is
-- dead, and nobody waits any more: they shall cost no load); on the way, jobs past their deadline fail with `late` (JSON).
-- Returns {now ms, id, request, {record, flat}}, false when nothing is to be had.
local function claim_head(slot, lane, target, worker, to, now, late)
  local passed, span = 0, 1 -- most often the first will do; to read 64 ids took a third of the script
  local deaf = redis.call('HGET', k_worker(worker), 'unreachable') or '[]'
  local function heard(j)
    return deaf == '[]' or j.surface ~= 'sync' or j.finish or not j.gateway or not string.find(deaf, '"' .. j.gateway .. '"', 1, true)
  end
  while true do
    local page = redis.call('ZRANGE', k_lane(slot, lane), passed, passed + span - 1)
    if not page[1] then return false end
    span = 64
    for _, id in ipairs(page) do
      local j = job_read(id)
      if not j then
        lane_take(id, slot, lane, false)
      elseif j.deadline and j.deadline <= now and legal(j.state, 'failed') then
        finish(j, 'failed', now, 'deadline_exceeded', late)
        tell_gateway(j)
      elseif legal(j.state, to) and (not j.target_only or j.target_only == target) and heard(j) then
        lane_take(id, slot, lane, j.priority)
        give(j, target, worker, to, now)
        return {now, id, redis.call('GET', k_request(id)) or '', redis.call('HGETALL', k_job(id))}
      else
        passed = passed + 1
      end
    end
  end
end
