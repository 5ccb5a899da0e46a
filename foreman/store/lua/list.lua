-- The newest jobs that fit, below a place in the list. Places are ULIDs: they stay where they are while jobs come and go.
-- KEYS[1] the pool's prefix
-- ARGV    1 the id below which to begin, '' for the newest  2 how many to look at  3 how many to find
--         4 states between blanks ' done failed ', '' for all  5 canonical model or ''  6 endpoint or ''  7 surface or ''
--         8 caller or ''
-- returns {1 where the list has ended, the last id looked at, {ids}}
local below, look, limit = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local states, model, endpoint, surface, caller = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local function fits(v)
  return (states == '' or string.find(states, ' ' .. v[1] .. ' ', 1, true)) and (model == '' or v[2] == model)
    and (endpoint == '' or v[3] == endpoint) and (surface == '' or v[4] == surface) and (caller == '' or v[5] == caller)
end

local ids = redis.call('ZREVRANGEBYLEX', k_jobs(), below == '' and '+' or '(' .. below, '-', 'LIMIT', 0, look)
local found, last = {}, ''
for number, id in ipairs(ids) do
  local v = redis.call('HMGET', k_job(id), 'state', 'canonical', 'endpoint', 'surface', 'caller')
  last = id
  if not v[1] then
    redis.call('ZREM', k_jobs(), id)
  elseif fits(v) then
    found[#found + 1] = id
    if #found == limit then return {number == #ids and #ids < look and 1 or 0, last, found} end
  end
end
return {#ids < look and 1 or 0, last, found}
