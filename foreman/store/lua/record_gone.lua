-- Note in a target's history that a lane is resident no longer, or was found resident.
-- KEYS[1] the pool's prefix
-- ARGV    1 target  2… the entry's fields, flat
-- returns 1
local target = ARGV[1]
local KEPT, WEEK_MS = 1000, 604800000
redis.call('XADD', k_swaps(target), 'MAXLEN', '~', KEPT, '*', unpack(ARGV, 2))
redis.call('PEXPIRE', k_swaps(target), WEEK_MS)
return 1
