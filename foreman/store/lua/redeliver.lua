-- Send a delivery again, now: the same bytes once more, whatever became of it. One that is still open is tried at once.
-- 1. there is none, or there was: the log knows  2. it is on its way  3. open: only the head of its job's lane may go
-- 4. ended: its bytes are made again, and the answer in them must still be there for that
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 its job  3 bytes up to which an answer stands in the event  4 the operator who wants it, or ''
-- returns sent | waiting (its attempt runs, or an earlier event's turn comes first) | over (its bytes are kept no longer) | unknown
-- include: clock, outbox, audit, resend
local evt, job, inline, who, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], clock()
local d = delivery_read(evt)

local function logged()
  for _, line in ipairs(redis.call('XRANGE', k_attempts(job), '-', '+')) do
    for i = 1, #line[2], 2 do
      if line[2][i] == 'id' and line[2][i + 1] == evt then return true end
    end
  end
  return false
end

if not d then return logged() and 'over' or 'unknown' end
if redis.call('ZSCORE', k_busy(d.url), evt) then return 'waiting' end
if not d.ending then
  if redis.call('ZRANGE', k_outbox(d.job), 0, 0)[1] ~= evt then return 'waiting' end
else
  if not bytes_kept(evt, job, inline) then return 'over' end
  redis.call('HSET', k_delivery(evt), 'again', 1)
  redis.call('PEXPIRE', k_delivery(evt), ENDED_MS)
  redis.call('ZADD', k_deliveries(), now, evt)
end
if who ~= '' then audited(now, who, 'redeliver', 'delivery', evt, {'again', d.ending and 1 or 0}) end
line_up(evt, d.url, AT_ONCE)
fill(d.url, now)
return 'sent'
