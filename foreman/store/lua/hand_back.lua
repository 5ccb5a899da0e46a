-- A running job back into its lane, or to its end where no attempt is left (see `back`).
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 id  7 epoch  8 reason  9 error JSON: an attempt is used up; '' where none is  10 '1' to tell the gateway
-- returns the state it is in now, or false when the epoch or the state forbids it
-- include: rules, clock, job
local id, epoch, reason, err, notify = ARGV[6], tonumber(ARGV[7]), ARGV[8], ARGV[9], ARGV[10]
local j = job_read(id)
if not j or j.epoch ~= epoch or not legal(j.state, 'queued') then return false end
back(j, clock(), reason, err, err ~= '', false)
if notify == '1' then tell_gateway(j) end
return j.state
