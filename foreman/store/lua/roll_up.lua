-- Fold the counts of hours that are over for long into those of their days. Running it again changes nothing.
-- KEYS[1] the pool's prefix
-- ARGV    1 hours that stay  2 ms that a day is kept
-- returns how many hours went
-- include: clock, tally
local stay, kept, folded = tonumber(ARGV[1]), tonumber(ARGV[2]), 0
local last = math.floor(clock() / HOUR_MS) - stay
for hour = last - HOURS_KEPT_MS / HOUR_MS, last do
  local key = k_tally('h' .. hour)
  local counts = redis.call('HGETALL', key)
  if #counts > 0 then
    local day = k_tally('d' .. math.floor(hour / 24))
    for i = 1, #counts, 2 do
      local what, name = string.match(counts[i], '^(%S+) (.*)$')
      redis.call('HINCRBY', day, tally_field(day, what, name), counts[i + 1])
    end
    redis.call('PEXPIRE', day, kept)
    redis.call('DEL', key)
    folded = folded + 1
  end
end
return folded
