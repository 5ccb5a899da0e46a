-- What operators did, in the same step as the deed. Deeds on jobs and deliveries have a log of their own: a program that
-- cancels thousands with the operator's token must not push out who paused a target.
local AUDIT_KEPT = 1000
local AUDIT_MS = 7776000000

-- more: what came of it, flat.
local function audited(now, who, action, what, name, more)
  local log = (what == 'job' or what == 'delivery') and k_audit_jobs() or k_audit()
  redis.call('XADD', log, 'MAXLEN', AUDIT_KEPT, '*', 'time', now, 'who', who, 'action', action, 'kind', what,
    'name', name, unpack(more))
  redis.call('PEXPIRE', log, AUDIT_MS)
end
