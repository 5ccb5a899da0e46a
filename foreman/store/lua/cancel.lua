-- A wish to cancel. 1. unknown; 2. queued: ended at once; 3. running: flag and order; 4. over already.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 id  7 code  8 the state it ends in (cancelled, failed)  9 error JSON  10 the operator who wants it, or ''
-- returns unknown | cancelled | wished | terminal
-- include: rules, clock, job, audit
local id, code, to, err, who = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local j = job_read(id)
if not j then return 'unknown' end
if not legal(j.state, to) then return 'terminal' end
if who ~= '' and not j.cancel_reason then
  audited(clock(), who, 'cancel', 'job', id, {'running', j.state == 'queued' and 0 or 1})
end
if j.state ~= 'queued' then
  wish(j, clock(), code, to, err)
  return 'wished'
end
finish(j, to, clock(), code, err)
if code ~= 'caller_gone' then tell_gateway(j) end
return 'cancelled'
