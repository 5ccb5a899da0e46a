-- Note a load in a target's history, and what it adds to the ledger.
-- KEYS[1] the pool's prefix
-- ARGV    1 target  2 reason  3 loads that order of arrival would have done since  4 ms saved since  5 ms paid for fairness
--         6… the entry's fields, flat
-- returns 1
-- include: meters
local target, reason, fifo, saved, paid = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local KEPT, WEEK_MS = 1000, 604800000
redis.call('XADD', k_swaps(target), 'MAXLEN', '~', KEPT, '*', 'kind', 'load', unpack(ARGV, 6))
redis.call('PEXPIRE', k_swaps(target), WEEK_MS)
redis.call('HINCRBY', k_ledger(), 'swaps', 1)
redis.call('HINCRBY', k_ledger(), 'swaps:' .. reason .. ':' .. target, 1)
redis.call('HINCRBY', k_ledger(), 'fifo_swaps', fifo)
redis.call('HINCRBY', k_ledger(), 'saved_ms', saved)
redis.call('HINCRBY', k_ledger(), 'fairness_ms', paid)
local entry = {}
for i = 6, #ARGV, 2 do entry[ARGV[i]] = ARGV[i + 1] end
timed('load', math.max(0, tonumber(entry.loaded) - tonumber(entry.t0)))
return 1
