-- Prolong the leases of attempts under way.
-- KEYS[1] the pool's prefix
-- ARGV    1 lease ms  2… delivery, ticket, …
-- returns the deliveries that are still theirs
-- include: clock, outbox
local lease, now, held = tonumber(ARGV[1]), clock(), {}
for i = 2, #ARGV, 2 do
  local d = delivery_read(ARGV[i])
  if d and d.inflight == ARGV[i + 1] and redis.call('ZSCORE', k_busy(d.url), d.id) then
    hold_place(d, now + lease)
    held[#held + 1] = d.id
  end
end
return held
