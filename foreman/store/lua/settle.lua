-- End an attempt: log it, and let the lane go on.
-- 1. delivered  2. gone (410), of a resend too: the job's lane ends  3. failed: a resend that somebody asked for is over; superseded where
-- something newer waits and it is no end; given up where the schedule is over; else tried again  4. abandoned: not made
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 delivered | gone | failed | abandoned  4 1 where an attempt was really made
--         5 status or ''  6 took ms or ''  7 error or ''  8 reply  9 ms until the next attempt, '' where none is left
--         10 ms for which the receiver asked for rest  11 failures in a row that count as broken  12 gap ms
-- returns delivered | gone | again | superseded | exhausted | abandoned | stale
-- include: clock, outbox
local evt, ticket, outcome, made, status, took, err, reply =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local delay, rest, broken, gap = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local now = clock()
local d = delivery_read(evt)
if not d or d.inflight ~= ticket or redis.call('ZREM', k_busy(d.url), evt) == 0 then return 'stale' end
redis.call('HDEL', k_delivery(evt), 'inflight')

-- one end, one begin: whoever waited longest for a place at this receiver
local woken = nil
repeat
  local first = redis.call('ZPOPMIN', k_waiting(d.url))[1]
  woken = not first
  local o = first and delivery_read(first)
  if o and (not o.ending or o.again) then
    send(first, now, now)
    woken = true
  end
until woken

if outcome == 'abandoned' then
  send(evt, now, now)
  return outcome
end
local tries = redis.call('HINCRBY', k_delivery(evt), 'tries', 1)
note(d, now, tries, status, took, err, reply)
if outcome ~= 'failed' then
  redis.call('DEL', k_receiver(d.url))
elseif made == '1' then
  if redis.call('HINCRBY', k_receiver(d.url), 'failures', 1) == broken then
    redis.call('HSET', k_receiver(d.url), 'probe_at', now + gap)
  end
  redis.call('PEXPIRE', k_receiver(d.url), RECEIVER_MS)
end

if outcome == 'delivered' or (outcome ~= 'gone' and d.again and d.ending) then
  close(d, outcome == 'delivered' and outcome or d.ending)
  if not d.ending then send_next(d.job, now, now) end
  return outcome == 'delivered' and outcome or 'exhausted'
end
if outcome == 'gone' then
  for _, other in ipairs(redis.call('ZRANGE', k_outbox(d.job), 0, -1)) do
    local o = delivery_read(other)
    if o and other ~= evt then note(o, now, 0, '', '', 'gone', '') end
    if o then close(o, 'gone') else redis.call('ZREM', k_outbox(d.job), other) end
  end
  close(d, 'gone') -- a resend stands in no outbox
  if redis.call('EXISTS', k_job(d.job)) == 1 then redis.call('HSET', k_job(d.job), 'webhook_over', 1) end
  return outcome
end

if not d.last and redis.call('ZCARD', k_outbox(d.job)) > 1 then
  note(d, now, 0, '', '', 'superseded', '')
  close(d, 'superseded')
  send_next(d.job, now + rest, now)
  return 'superseded'
end
if not delay then
  note(d, now, 0, '', '', 'exhausted', '')
  close(d, 'exhausted')
  send_next(d.job, now, now)
  return 'exhausted'
end
redis.call('HSET', k_delivery(evt), 'hold', now + rest)
send(evt, now + delay, now)
return 'again'
