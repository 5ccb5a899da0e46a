-- Move a job: loading to working, or to an end.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 id  7 epoch, or '' for a job that is queued  8 to  9 reason  10 error JSON or ''
--         11 usage JSON or ''  12 timings JSON or ''  13 '1' to tell the gateway
--         14 of a job that is done: what is kept of its answer, JSON list of its one artifact, or ''  15 its bytes
--         16 of a job whose stream may be read again: the head of its answer, JSON, or ''  17 the stream's bytes, '' where
--         they are those of the artifact
-- returns 1, or 0 when the table, the epoch or the state forbids it (nothing changed)
-- include: rules, clock, job
local id, epoch, to, reason, err, usage, timings, notify, artifacts, answer, head, stream =
  ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14], ARGV[15], ARGV[16], ARGV[17]
local j = job_read(id)

if not j or not legal(j.state, to) then return 0 end
local ends = to == 'done' or to == 'failed' or to == 'cancelled'
if j.state == 'queued' then
  if epoch ~= '' or not ends then return 0 end
elseif tonumber(epoch) ~= j.epoch or to == 'queued' then
  return 0
end

local now = clock()
local more = {}
if usage ~= '' then
  more[#more + 1] = 'usage'
  more[#more + 1] = usage
end
if timings ~= '' then
  more[#more + 1] = 'timings'
  more[#more + 1] = timings
end
if to == 'done' and artifacts ~= '' then
  more[#more + 1] = 'artifacts'
  more[#more + 1] = artifacts
  j.answer = answer
end
if to == 'done' and head ~= '' then
  more[#more + 1] = 'head'
  more[#more + 1] = head
  if stream ~= '' then j.stream = stream end
end
j.timings, j.usage = timings, usage
if ends then
  finish(j, to, now, reason, err, more)
else
  redis.call('ZREM', k_running(j.state), id)
  redis.call('ZADD', k_running(to), now, id)
  if not j.started_at then
    more[#more + 1] = 'started_at'
    more[#more + 1] = now
  end
  record(j, to, now, reason, more)
end
if notify == '1' or (ends and j.readers) then tell_gateway(j) end
return 1
