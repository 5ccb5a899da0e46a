-- include: message, lane, outbox, tally, meters, payload, past
-- A job's record, and the two ways out of a state: `finish` to an end, `back` into the lane. Nothing else writes `state`
-- but submit, claim and transition, which call `record` too: no state without its event.
local EVENTS = 200
local SYNC_ENDED = 10000
local LISTS_MS = 345600000 -- 4 days after the last end, should nobody be there to trim

local function job_read(id)
  local v = redis.call('HMGET', k_job(id), 'state', 'epoch', 'seq', 'attempt', 'surface', 'lane', 'slot', 'priority', 'due',
    'gateway', 'worker', 'target', 'targets', 'target_only', 'lost', 'cancel_reason', 'cancel_to', 'cancel_error', 'started_at', 'deadline',
    'idempotency', 'watchers', 'finish', 'begun', 'readers')
  if not v[1] then return nil end
  return {
    id = id, state = v[1], epoch = tonumber(v[2]), seq = tonumber(v[3]), attempt = tonumber(v[4]), surface = v[5],
    lane = v[6], slot = v[7], priority = v[8], due = v[9], gateway = v[10], worker = v[11], target = v[12],
    targets = v[13], target_only = v[14], lost = tonumber(v[15] or '0'), cancel_reason = v[16], cancel_to = v[17],
    cancel_error = v[18], started_at = v[19], deadline = tonumber(v[20] or ''),
    idempotency = v[21], watchers = v[22], finish = v[23], begun = v[24], readers = v[25],
  }
end

-- The state and its event, in one step. more: further fields, flat.
local function record(j, to, now, reason, more)
  j.seq = j.seq + 1
  redis.call('HSET', k_job(j.id), 'state', to, 'previous_state', j.state, 'seq', j.seq, 'changed_at', now, unpack(more))
  redis.call('XADD', k_events(j.id), 'MAXLEN', EVENTS, j.seq .. '-0', 'state', to, 'previous_state', j.state, 'time', now,
    'worker', j.worker or '', 'reason', reason, 'attempt', j.attempt, 'epoch', j.epoch)
  if j.surface ~= 'sync' then tell(j.id, j.seq, to, now) end -- no webhooks on sync (ADR-0014)
  j.state = to
end

-- What the gateways of those who wait for the answer are told of the state `j` has now: the first caller by the job's id,
-- each later reader by its own.
local function tell_gateway(j)
  if j.surface ~= 'sync' then return end
  if j.gateway then
    post('gateway', j.gateway, {job_id = j.id, state = j.state, epoch = j.epoch, error = j.error or ''})
  end
  for gateway, reader in string.gmatch(j.readers or '', '(%S+) (%S+)') do
    post('gateway', gateway, {job_id = reader, state = j.state, epoch = j.epoch, error = j.error or ''})
  end
end

-- What the gateways are told that wait for the job's end.
local function tell_watchers(j)
  for gateway in string.gmatch(j.watchers or '', '[^\n]+') do
    post('gateway', gateway, {job_id = j.id, state = j.state, epoch = j.epoch, error = '', watched = true})
  end
end

-- Out of the lists of what is kept, once its time is over; a job that is kept longer is looked at again a minute later.
local function forget(ended, before)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', ended, '-inf', '(' .. before, 'LIMIT', 0, 100)) do
    if redis.call('EXISTS', k_job(id)) == 1 then
      redis.call('ZADD', ended, before + 60000, id)
    else
      redis.call('ZREM', ended, id)
      redis.call('ZREM', k_jobs(), id)
    end
  end
end

local function anybody_lives()
  for _, state in ipairs({'working', 'loading'}) do
    if redis.call('EXISTS', k_running(state)) == 1 then return true end
  end
  for _, slot in ipairs({'drain', 'embed', 'side'}) do
    if redis.call('EXISTS', k_queued(slot), k_delayed(slot)) > 0 then return true end
  end
  return false
end

local function leave_worker(j)
  redis.call('ZREM', k_running(j.state), j.id)
  if j.worker then redis.call('SREM', k_worker_jobs(j.worker), j.id) end
end

-- One ended sync job less: the oldest that nobody may come back to, or, ten times as many, the oldest.
local function evict_sync(ended)
  local all = redis.call('ZCARD', ended) > 10 * SYNC_ENDED
  local first = redis.call('ZRANGE', ended, 0, 15, 'WITHSCORES')
  for at = 1, #first, 2 do
    local id = first[at]
    if all or redis.call('HGET', k_job(id), 'finish') ~= '1' then
      redis.call('ZREM', ended, id)
      payload_drop('sync', id, first[at + 1])
      redis.call('DEL', k_job(id), k_events(id))
      redis.call('ZREM', k_jobs(), id)
      return
    end
  end
end

-- To done, failed or cancelled: out of every list, counted, kept for its time and not a moment longer; of sync jobs the
-- last SYNC_ENDED of each end, so that callers who come and go can't fill the store.
local function finish(j, to, now, reason, err, more)
  if j.state ~= 'queued' then
    leave_worker(j)
  elseif redis.call('ZREM', k_delayed(j.slot), j.id) == 0 then
    lane_take(j.id, j.slot, j.lane, j.priority)
  end
  more = more or {}
  more[#more + 1] = 'finished_at'
  more[#more + 1] = now
  if err and err ~= '' then
    more[#more + 1] = 'error'
    more[#more + 1] = err
    j.error = err
  end
  record(j, to, now, reason, more)
  redis.call('HINCRBY', k_totals(), to, 1)
  tally(now, 'job:' .. j.surface, to)
  meter_end(j, to, reason)
  past_end(j, to, now)
  redis.call('ZREM', k_deadlines(), j.id)
  if j.gateway then redis.call('SREM', k_gateway_jobs(j.gateway), j.id) end
  local keep = ASYNC_MS
  if j.surface == 'sync' then
    keep = SYNC_MS
  end
  redis.call('PEXPIREAT', k_job(j.id), now + keep)
  redis.call('PEXPIREAT', k_events(j.id), now + keep)
  local kept = j.surface ~= 'sync' or j.finish
  if kept then
    redis.call('PEXPIREAT', k_request(j.id), now + keep)
  else
    payload_add(-redis.call('STRLEN', k_request(j.id)))
    redis.call('DEL', k_request(j.id))
  end
  if j.answer then redis.call('SET', k_artifact(j.id, 'completion'), j.answer, 'PXAT', now + keep) end
  if j.stream then redis.call('SET', k_artifact(j.id, 'stream'), j.stream, 'PXAT', now + keep) end
  if kept or j.answer then
    payload_add(string.len(j.answer or '') + string.len(j.stream or ''))
    payload_keep(j.surface, j.id, now, now + keep)
    payload_fits(0, now)
  end
  if j.idempotency and to == 'done' then
    redis.call('PEXPIREAT', k_idempotency(j.idempotency), now + keep)
  elseif j.idempotency then -- free for another try: there is no answer
    redis.call('DEL', k_idempotency(j.idempotency))
  end
  if j.surface ~= 'sync' then stay_while_told(j.id, now + keep) end -- no webhooks on sync (ADR-0014)
  local ended = k_ended(j.surface, to)
  redis.call('ZADD', ended, now, j.id)
  forget(ended, now - keep)
  redis.call('PEXPIRE', ended, keep + LISTS_MS)
  if not anybody_lives() then redis.call('PEXPIRE', k_jobs(), math.max(SYNC_MS, ASYNC_MS) + LISTS_MS) end
  if j.surface == 'sync' and redis.call('ZCARD', ended) > SYNC_ENDED then evict_sync(ended) end
  tell_watchers(j)
end

-- From loading or working into the lane again, at its old due: before everything of its class that came later.
-- used: the attempt is used up; lost: because its worker was lost. Ends the job where that was the last attempt or
-- somebody wishes it cancelled. 1. wished away; 2. some caller has bytes of this run, and a second one would be spliced
-- onto them; 3. poison; 4. no attempt left; 5. queued.
local function back(j, now, reason, err, used, lost)
  if j.cancel_reason then
    return finish(j, j.cancel_to, now, j.cancel_reason, j.cancel_error)
  end
  if j.begun then return finish(j, 'failed', now, 'interrupted', j.begun) end
  local attempt, losses = j.attempt, j.lost
  if used then
    losses = lost and j.lost + 1 or 0
    if losses >= 3 then return finish(j, 'failed', now, 'poison', POISON) end
    if attempt >= MAX_ATTEMPTS then return finish(j, 'failed', now, reason, err) end
    attempt = attempt + 1
  end
  leave_worker(j)
  j.epoch = j.epoch + 1
  j.attempt = attempt
  record(j, 'queued', now, reason, {'epoch', j.epoch, 'attempt', attempt, 'lost', losses})
  redis.call('HDEL', k_job(j.id), 'worker', 'target', 'claimed_at')
  lane_put(j.id, j.slot, j.lane, j.priority, j.due)
  wake(j.targets, j.target_only, j.slot)
end

-- A wish to cancel a running job: a flag that outlives everybody, and an order to its worker (recover repeats it).
local function wish(j, now, code, to, err)
  if not j.cancel_reason then
    redis.call('HSET', k_job(j.id), 'cancel_reason', code, 'cancel_to', to, 'cancel_error', err, 'cancel_sent', now)
    post('worker', j.worker, {verb = 'cancel', job_id = j.id, epoch = j.epoch, code = code, target = j.target})
  end
end
