-- What operators did, in the same step as the deed.
local AUDIT_KEPT = 1000
local AUDIT_MS = 7776000000

-- more: what came of it, flat.
local function audited(now, who, action, what, name, more)
  redis.call('XADD', k_audit(), 'MAXLEN', AUDIT_KEPT, '*', 'time', now, 'who', who, 'action', action, 'kind', what,
    'name', name, unpack(more))
  redis.call('PEXPIRE', k_audit(), AUDIT_MS)
end
