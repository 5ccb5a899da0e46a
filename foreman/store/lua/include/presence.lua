-- Who lives. A lease counts by the server's clock; when nobody at all was heard for PULSE_MS it was the store that was
-- away (or its clock that jumped), and those who lived when it was last heard get a new lease before anyone is buried.
local PULSE_MS = 2000

local function lives(registry, id, now)
  local till = redis.call('ZSCORE', registry, id)
  return till and tonumber(till) > now
end

local function breathe(now, lease)
  local last = tonumber(redis.call('GET', k_pulse()) or now)
  local away = now - last > PULSE_MS
  for _, registry in ipairs({k_workers(), k_gateways()}) do
    if away then
      for _, id in ipairs(redis.call('ZRANGEBYSCORE', registry, '(' .. last, now + lease)) do
        redis.call('ZADD', registry, now + lease, id)
      end
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', registry, '(' .. now + lease, '+inf')) do
      redis.call('ZADD', registry, now + lease, id)
    end
  end
  redis.call('SET', k_pulse(), now)
end
