-- The jobs in loading or working, with what people see of them; those claimed first coming first.
-- KEYS[1] the pool's prefix
-- ARGV    1 at most so many of each state
-- returns {id, state, lane, model, endpoint, slot, claimed ms, target, caller or '', surface}, …
local most = tonumber(ARGV[1])
local reply = {}
for _, state in ipairs({'loading', 'working'}) do
  for _, id in ipairs(redis.call('ZRANGE', k_running(state), 0, most - 1)) do
    local v = redis.call('HMGET', k_job(id), 'lane', 'model', 'endpoint', 'slot', 'claimed_at', 'target', 'caller', 'surface')
    if v[1] then
      reply[#reply + 1] = {id, state, v[1], v[2] or '', v[3], v[4], v[5] or '0', v[6] or '', v[7] or '', v[8]}
    end
  end
end
table.sort(reply, function(a, b)
  local at, bt = tonumber(a[7]), tonumber(b[7])
  return at < bt or (at == bt and a[1] < b[1])
end)
return reply
