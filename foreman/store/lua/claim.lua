-- Take the head of a lane for a worker that owns the target: state, epoch + 1, event, the worker's own list.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 slot  7 lane  8 target  9 worker  10 target epoch  11 state to take it in (loading, working)
--         12 error of a job past its deadline, JSON
-- returns {now ms, id, request, {record, flat}}, false when nothing is to be had, 'fenced' when the target is another's
-- include: rules, clock, job, presence
local slot, lane, target, worker, own_epoch, to, late = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local now = clock()

local own = redis.call('HMGET', k_target(target), 'owner', 'epoch')
if own[1] ~= worker or own[2] ~= own_epoch or not lives(k_workers(), worker, now) then return 'fenced' end
if false then return false end

local head = redis.call('ZRANGE', k_lane(slot, lane), 0, 15)
for _, id in ipairs(head) do
  local j = job_read(id)
  if not j then
    lane_take(id, slot, lane, false)
  elseif j.deadline and j.deadline <= now and legal(j.state, 'failed') then
    finish(j, 'failed', now, 'deadline_exceeded', late)
    tell_gateway(j)
  elseif legal(j.state, to) then
    lane_take(id, slot, lane, j.priority)
    j.epoch = j.epoch + 1
    j.worker = worker
    local more = {'epoch', j.epoch, 'worker', worker, 'target', target, 'claimed_at', now}
    if to == 'working' and not j.started_at then
      more[#more + 1] = 'started_at'
      more[#more + 1] = now
    end
    record(j, to, now, 'claimed', more)
    redis.call('ZADD', k_running(to), now, id)
    redis.call('SADD', k_worker_jobs(worker), id)
    return {now, id, redis.call('GET', k_request(id)) or '', redis.call('HGETALL', k_job(id))}
  end
end
return false
