-- A reader has left.
-- KEYS[1] the pool's prefix
-- ARGV    1 id  2 gateway  3 reader
-- returns 1, or 0 where it was none
local id, line = ARGV[1], ARGV[2] .. ' ' .. ARGV[3]
local kept, gone = '', 0
for other in string.gmatch(redis.call('HGET', k_job(id), 'readers') or '', '[^\n]+') do
  if other == line then gone = 1 else kept = kept == '' and other or kept .. '\n' .. other end
end
if gone == 1 then
  if kept == '' then redis.call('HDEL', k_job(id), 'readers') else redis.call('HSET', k_job(id), 'readers', kept) end
end
return gone
