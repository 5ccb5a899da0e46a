-- What is paused now.
-- KEYS[1] the pool's prefix
-- returns {now ms, {lane | target, name, until ms or 0, 1 where a target is to hold nothing, since ms}, …}
-- include: clock, pausing
local now = clock()
local reply = {now}
for _, pause in ipairs(tidy_pauses(now)) do reply[#reply + 1] = pause end
return reply
