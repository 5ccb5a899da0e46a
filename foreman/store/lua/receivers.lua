-- The receivers that were told of something last.
-- KEYS[1] the pool's prefix
-- ARGV    1 how many at most
-- returns {url, attempts under way or handed out, deliveries in line, since when the first may go ms or '', flat record} each
-- include: outbox
local found = {}
for _, url in ipairs(redis.call('ZREVRANGE', k_receivers(), 0, tonumber(ARGV[1]) - 1)) do
  local first = redis.call('ZRANGE', k_waiting(url), 0, 0, 'WITHSCORES')[2] or ''
  found[#found + 1] = {url, redis.call('ZCARD', k_busy(url)), redis.call('ZCARD', k_waiting(url)), first,
    redis.call('HGETALL', k_receiver(url))}
end
return found
