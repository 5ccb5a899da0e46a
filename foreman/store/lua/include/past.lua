-- What `foreman trace export` tells of: a line per job that ended. When it came, its lane, class and run; nothing of its content.
local PAST, PAST_MS = 20000, 86400000

local function past_end(j, to, now)
  if j.slot == 'side' then return end
  local v = redis.call('HMGET', k_job(j.id), 'created_at', 'not_before')
  local came = math.max(tonumber(v[1] or now), tonumber(v[2] or 0))
  redis.call('XADD', k_past(), 'MAXLEN', '~', PAST, '*', 'job', table.concat({
    j.lane, j.slot, j.priority, to, came, j.started_at or '', now, j.deadline or '', j.target or '',
  }, '\n'))
  redis.call('PEXPIRE', k_past(), PAST_MS)
end
