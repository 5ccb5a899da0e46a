-- Ask the owners of targets for a fresh probe, at most once a second each.
-- KEYS[1] the pool's prefix
-- ARGV    the targets
-- returns how many were asked
-- include: message
local asked = 0
for _, target in ipairs(ARGV) do
  if redis.call('SET', k_probe(target), '1', 'NX', 'PX', 1000) then
    wake_target(target, 'probe')
    asked = asked + 1
  end
end
return asked
