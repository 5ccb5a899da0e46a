-- Loads that order of arrival would have done, and that did not have to be done.
-- KEYS[1] the pool's prefix
-- ARGV    1 loads  2 ms they would have taken
-- returns 1
redis.call('HINCRBY', k_ledger(), 'fifo_swaps', ARGV[1])
redis.call('HINCRBY', k_ledger(), 'saved_ms', ARGV[2])
return 1
