-- Prolong a worker's lease, or a gateway's presence.
-- KEYS[1] the pool's prefix
-- ARGV    1 worker or gateway  2 lease ms
-- returns 1, or 0 when it is over: enrol anew, everything held under it belongs to others
-- include: clock, presence
local id, lease = ARGV[1], tonumber(ARGV[2])
local now = clock()
breathe(now, lease)
for _, registry in ipairs({k_workers(), k_gateways()}) do
  if lives(registry, id, now) then
    redis.call('ZADD', registry, now + lease, id)
    return 1
  end
end
return 0
