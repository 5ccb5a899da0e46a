-- Queue a job: record, event 1, lane, wake-up. Sending it again changes nothing. Before `not_before` it stands in no lane.
-- Where nothing waits, and its target's owner offers a place in its loaded lane (23), it is claimed in the same step: what a
-- `take` right behind it would come to.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 id  7 slot  8 lane  9 class 0..2  10 longest wait ms  11 deadline ms from now or ''  12 expected run ms
--         13 limit of queued jobs for this class  14 request  15 gateway or ''  16 targets to wake joined by newline,
--         '' all, a lone newline none  17 the one to wake, where only one may, or ''  18 lease ms  19 not before ms or ''  20 digest of its idempotency key or ''
--         21 fingerprint of its body  22 bytes of payload that the store may hold  23 target whose owner offers a place, or ''
--         24 that owner  25 target epoch  26… further fields of the record, flat, `surface` first; last,
--         where an operator retries a job, `retried_by`
-- returns {position, queued, jobs of its lane before it, jobs in flight (0 for a gateway's call)}, {'full' | 'stuffed', seconds until a place, or bytes, may be free}, or of the job that has the key already
--         {'known', id}, {'other', id} where that came with another body; {'taken', now ms, {record, flat}} where it was claimed
-- include: clock, message, lane, outbox, payload, audit, claiming
local id, slot, lane, priority, request = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[14]
local max_wait, deadline_in, service, limit = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local gateway, targets, only, lease = ARGV[15], ARGV[16], ARGV[17], tonumber(ARGV[18])
local not_before, idempotency, fingerprint, store_bytes = tonumber(ARGV[19]), ARGV[20], ARGV[21], ARGV[22]
local target, worker, own_epoch, surface = ARGV[23], ARGV[24], ARGV[25], ARGV[27]
local now = clock()
local begins = math.max(now, not_before or now)
local queued = redis.call('ZCARD', k_queued(slot)) + redis.call('ZCARD', k_delayed(slot))

if redis.call('EXISTS', k_job(id)) == 1 then
  return {(redis.call('ZRANK', k_queued(slot), id) or 0) + 1, queued}
end
if idempotency ~= '' then
  local first, came_with = string.match(redis.call('GET', k_idempotency(idempotency)) or '', '^(%S+) (.*)$')
  if first and redis.call('EXISTS', k_job(first)) == 1 then return {came_with == fingerprint and 'known' or 'other', first} end
end
if queued >= limit then
  local ended = 0
  for _, surface in ipairs({'sync', 'async'}) do
    for _, state in ipairs({'done', 'failed', 'cancelled'}) do
      ended = ended + redis.call('ZCOUNT', k_ended(surface, state), now - 60000, '+inf')
    end
  end
  return {'full', ended == 0 and 60 or math.min(300, math.ceil((queued - limit + 1) * 60 / ended))}
end
if redis.call('HGET', k_payload(), 'limit') ~= store_bytes then redis.call('HSET', k_payload(), 'limit', store_bytes) end
payload_trim(now, 2)
if not payload_fits(string.len(request), now) then return {'stuffed', 60} end

local due, deadline = begins + max_wait, nil
if deadline_in then
  deadline = begins + deadline_in
  due = math.min(due, math.max(begins, deadline - service))
  redis.call('ZADD', k_deadlines(), deadline, id)
end
redis.call('HSET', k_job(id), 'state', 'queued', 'epoch', 0, 'seq', 1, 'attempt', 1, 'created_at', now, 'changed_at', now, 'due', due,
  'slot', slot, 'lane', lane, 'priority', priority, unpack(ARGV, 26))
redis.call('ZADD', k_jobs(), 0, id)
redis.call('PERSIST', k_jobs())
if deadline then redis.call('HSET', k_job(id), 'deadline', deadline) end
if not_before then redis.call('HSET', k_job(id), 'not_before', not_before) end
if idempotency ~= '' then
  redis.call('HSET', k_job(id), 'idempotency', idempotency)
  redis.call('SET', k_idempotency(idempotency), id .. ' ' .. fingerprint)
end
redis.call('SET', k_request(id), request)
payload_add(string.len(request))
redis.call('XADD', k_events(id), '1-0', 'state', 'queued', 'previous_state', '', 'time', now, 'worker', '', 'reason',
  'submitted', 'attempt', 1)
if ARGV[#ARGV - 1] == 'retried_by' then
  audited(now, ARGV[#ARGV], 'retry', 'job', redis.call('HGET', k_job(id), 'retry_of'), {'as', id})
end
if surface ~= 'sync' then tell(id, 1, 'queued', now) end -- no webhooks on sync (ADR-0014)
if begins > now then
  redis.call('ZADD', k_delayed(slot), begins, id)
  return {0, queued + 1}
end
if gateway ~= '' then
  redis.call('ZADD', k_gateways(), 'NX', now + lease, gateway)
  redis.call('SADD', k_gateway_jobs(gateway), id)
end
if target ~= '' and redis.call('EXISTS', k_lanes(slot)) == 0 and owns(target, worker, own_epoch, now)
  and not held_back(slot, lane, target, now) then
  give({id = id, state = 'queued', epoch = 0, seq = 1, attempt = 1, surface = surface}, target, worker, 'working', now)
  return {'taken', now, redis.call('HGETALL', k_job(id))}
end
lane_put(id, slot, lane, priority, due)
wake(targets, only, slot)
local running = gateway == '' and redis.call('ZCARD', k_running('loading')) + redis.call('ZCARD', k_running('working')) or 0
if queued == 0 then return {1, 1, 0, running} end
return {redis.call('ZRANK', k_queued(slot), id) + 1, queued + 1, redis.call('ZRANK', k_lane(slot, lane), id), running}
