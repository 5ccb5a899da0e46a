-- End a gateway's presence; callers it still had are gone.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 gateway  7 error JSON of a caller that is gone
-- returns the ids of the queued jobs that were cancelled
-- include: rules, clock, job, gone
local moved = {}
gateway_gone(ARGV[6], clock(), ARGV[7], math.huge, moved)
return moved
