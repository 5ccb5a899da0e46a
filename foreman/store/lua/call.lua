-- Look at the receivers whose moment has come: hand out what is due there, and what a lost attempt left.
-- KEYS[1] the pool's prefix
-- ARGV    1 how many at most
-- returns the deliveries whose attempts were lost
-- include: clock, outbox
local limit, now, lost = tonumber(ARGV[1]), clock(), {}
for _, url in ipairs(redis.call('ZRANGEBYSCORE', k_calls(), '-inf', now, 'LIMIT', 0, limit)) do
  local gone = fill(url, now)
  for _, evt in ipairs(gone) do lost[#lost + 1] = evt end
end
return lost
