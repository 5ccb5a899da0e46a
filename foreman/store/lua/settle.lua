-- End an attempt: log it, let the job's lane go on, and give its place at the receiver to whoever waited longest.
-- 1. delivered  2. gone (410), of a resend too: the job's lane ends  3. failed: a resend that somebody asked for is over; superseded where
-- something newer waits and it is no end; given up where the schedule is over; else tried again  4. abandoned: not made
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 delivered | gone | failed | abandoned  4 status or ''  5 took ms or ''  6 error or ''
--         7 reply  8 ms until the next attempt, '' where none is left  9 ms for which the receiver asked for rest
--         10 failures in a row that count as broken  11 gap ms between attempts at a broken one
-- returns {delivered | gone | again | superseded | exhausted | abandoned | stale}, and behind it the delivery and the ticket
--         that got a place, where one did: who has settled may begin it without waiting for arq
-- include: clock, outbox, meters
local evt, ticket, outcome, status, took, err, reply = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local delay, rest, broken, gap = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local now = clock()
local d = delivery_read(evt)
if not d or d.inflight ~= ticket or give_place_back(d) == 0 then return {'stale'} end
redis.call('HDEL', k_delivery(evt), 'inflight')

local function count()
  local key, failed = k_receiver(d.url), outcome == 'failed'
  redis.call('HSET', key, 'status', status, 'error', err, 'at', now)
  redis.call('HINCRBY', key, outcome == 'delivered' and 'delivered' or 'failed', 1)
  note_receiver(d.url, now)
  tally_told(d, now, outcome)
  metered('webhooks:' .. outcome, 1)
  if took ~= '' then timed('webhook', tonumber(took)) end
  if not failed then
    redis.call('HDEL', key, 'failures', 'probe_at', 'gap')
  elseif redis.call('HINCRBY', key, 'failures', 1) == broken then
    redis.call('HSET', key, 'probe_at', now + gap, 'gap', gap)
  end
  if tonumber(redis.call('HGET', key, 'open') or '0') <= 0 then redis.call('PEXPIRE', key, RECEIVER_MS) end
end

local function gone()
  for _, other in ipairs(redis.call('ZRANGE', k_outbox(d.job), 0, -1)) do
    local o = delivery_read(other)
    if o and other ~= evt then note(o, now, 0, '', '', 'gone', '') end
    if o then close(o, 'gone') else redis.call('ZREM', k_outbox(d.job), other) end
  end
  if d.ending then close(d, 'gone') end -- a resend stands in no outbox
  if redis.call('EXISTS', k_job(d.job)) == 1 then redis.call('HSET', k_job(d.job), 'webhook_over', 1) end
  return outcome
end

local function given_up(word, at)
  note(d, now, 0, '', '', word, '')
  tally_told(d, now, word)
  close(d, word)
  send_next(d.job, d.url, at, now)
  return word
end

local function settle()
  if outcome == 'abandoned' then
    line_up(evt, d.url, (d.again or d.final) and AT_ONCE or AT_ONCE + 1)
    return outcome
  end
  local tries = redis.call('HINCRBY', k_delivery(evt), 'tries', 1)
  note(d, now, tries, status, took, err, reply)
  count()
  if outcome == 'gone' then return gone() end
  if outcome == 'delivered' or (d.again and d.ending) then
    close(d, outcome == 'delivered' and outcome or d.ending)
    if not d.ending then send_next(d.job, d.url, now, now) end
    return outcome == 'delivered' and outcome or 'exhausted'
  end
  if not d.last and redis.call('ZCARD', k_outbox(d.job)) > 1 then return given_up('superseded', now + rest) end
  if not delay or d.final then return given_up('exhausted', now) end
  redis.call('HSET', k_delivery(evt), 'hold', now + rest)
  redis.call('ZINCRBY', k_deliveries(), rest, evt)
  line_up(evt, d.url, now + delay)
  return 'again'
end

local after = settle()
local _, handed = fill_next(d.url, now)
if handed then return {after, handed[1], handed[2]} end
return {after}
