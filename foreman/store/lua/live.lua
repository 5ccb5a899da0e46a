-- Note how a process does, and tell how all do. Who was not heard for GONE_MS is forgotten.
-- KEYS[1] the pool's prefix
-- ARGV    1 `<role>:<id>`, '' to look only  2 JSON
-- returns {<role>:<id>, JSON, …}
-- include: clock
local who, said = ARGV[1], ARGV[2]
local GONE_MS, KEPT_MS = 10000, 60000
local now = clock()
if who ~= '' then
  redis.call('HSET', k_live(), who, now .. ' ' .. said)
  redis.call('PEXPIRE', k_live(), KEPT_MS)
end
local reply = {}
local all = redis.call('HGETALL', k_live())
for i = 1, #all, 2 do
  local at, text = string.match(all[i + 1], '^(%d+) (.*)$')
  if tonumber(at) + GONE_MS < now then
    redis.call('HDEL', k_live(), all[i])
  elseif who == '' then
    reply[#reply + 1] = all[i]
    reply[#reply + 1] = text
  end
end
return reply
