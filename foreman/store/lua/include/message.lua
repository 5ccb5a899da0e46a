-- What others are told: wake-ups for targets, orders to workers, notices to gateways. Losing one costs a second at most;
-- who is told more than an inbox holds is told so, in front of the rest: a gateway then asks for each of its callers.
local MESSAGE_MS = 60000
local MESSAGES = 1000
local MISSED = '{"verb":"missed","missed":true}'

local function post(kind, id, message)
  local key = k_inbox(kind, id)
  if redis.call('RPUSH', key, cjson.encode(message)) > MESSAGES then
    redis.call('LTRIM', key, -MESSAGES, -1)
    redis.call('LSET', key, 0, MISSED)
  end
  redis.call('PEXPIRE', key, MESSAGE_MS)
end

-- One pending wake-up per target and slot (or `probe`) is enough.
local function wake_target(target, slot)
  local key = k_wake(target)
  redis.call('LREM', key, 0, slot)
  redis.call('RPUSH', key, slot)
  redis.call('PEXPIRE', key, MESSAGE_MS)
end

-- targets: names joined by newlines, empty or false for all that were published; only: the one its caller asked for.
local function wake(targets, only, slot)
  if only and only ~= '' then
    wake_target(only, slot)
  elseif targets and targets ~= '' then
    for target in string.gmatch(targets, '[^\n]+') do wake_target(target, slot) end
  else
    for _, target in ipairs(redis.call('SMEMBERS', k_targets())) do wake_target(target, slot) end
  end
end
