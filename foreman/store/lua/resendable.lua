-- Which deliveries can be sent again: an open one, and an ended one as long as its bytes can be made anew.
-- KEYS[1] the pool's prefix
-- ARGV    1 bytes up to which an answer stands in the event, then deliveries
-- returns those of them
-- include: resend
local inline, found = tonumber(ARGV[1]), {}
for number = 2, #ARGV do
  local evt = ARGV[number]
  local v = redis.call('HMGET', k_delivery(evt), 'job', 'ending')
  if v[1] and (not v[2] or bytes_kept(evt, v[1], inline)) then found[#found + 1] = evt end
end
return found
