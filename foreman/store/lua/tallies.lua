-- The counts of the last hours or days, the newest first; those without any are left out.
-- KEYS[1] the pool's prefix
-- ARGV    1 h | d  2 ms it lasts  3 how many
-- returns {its number since the epoch, flat counts} each
-- include: clock
local kind, lasts, count = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, found = math.floor(clock() / lasts), {}
for number = now, now - count + 1, -1 do
  local counts = redis.call('HGETALL', k_tally(kind .. number))
  if #counts > 0 then found[#found + 1] = {number, counts} end
end
return found
