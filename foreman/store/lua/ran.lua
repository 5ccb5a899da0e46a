-- Which jobs ran when, newest end first: the ticks of a timeline.
-- KEYS[1] the pool's prefix
-- ARGV    1 ended since, ms  2 at most so many
-- returns {{id, target, lane, state, started ms, ended ms}, …}
local since, most = ARGV[1], tonumber(ARGV[2])
local ended = {}
for _, surface in ipairs({'sync', 'async'}) do
  for _, state in ipairs({'done', 'failed', 'cancelled'}) do
    local page = redis.call('ZREVRANGEBYSCORE', k_ended(surface, state), '+inf', since, 'WITHSCORES', 'LIMIT', 0, most)
    for i = 1, #page, 2 do ended[#ended + 1] = {page[i], tonumber(page[i + 1]), state} end
  end
end
table.sort(ended, function(a, b) return a[2] > b[2] end)
local reply = {}
for number = 1, math.min(most, #ended) do
  local id = ended[number][1]
  local v = redis.call('HMGET', k_job(id), 'target', 'lane', 'started_at', 'slot')
  if v[1] and v[3] and v[4] ~= 'side' then
    reply[#reply + 1] = {id, v[1], v[2], ended[number][3], v[3], ended[number][2]}
  end
end
return reply
