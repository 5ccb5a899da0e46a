-- Ask the owners of targets for a fresh probe, at most once a second each.
-- KEYS[1] the pool's prefix
-- ARGV    the targets
-- returns now ms: what a probe from now on finds is news to whoever asks
-- include: clock, message
for _, target in ipairs(ARGV) do
  if redis.call('SET', k_probe(target), '1', 'NX', 'PX', 1000) then
    wake_target(target, 'probe')
  end
end
return clock()
