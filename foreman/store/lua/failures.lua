-- The last failures, grouped by code.
-- KEYS[1] the pool's prefix
-- ARGV    1 how many are looked at
-- returns {looked at, failed since the pool began, {code, count, last ms, message of the last, its ids, models, targets}, …};
--         lists are joined by newlines, the newest first, five at most
local look = tonumber(ARGV[1])
local MOST = 5
local ended = {}
for _, surface in ipairs({'sync', 'async'}) do
  local page = redis.call('ZREVRANGE', k_ended(surface, 'failed'), 0, look - 1, 'WITHSCORES')
  for i = 1, #page, 2 do ended[#ended + 1] = {page[i], tonumber(page[i + 1])} end
end
table.sort(ended, function(a, b) return a[2] > b[2] end)

local groups, order, looked = {}, {}, 0
local function add(list, value)
  if not value or value == '' or #list >= MOST then return end
  for _, one in ipairs(list) do
    if one == value then return end
  end
  list[#list + 1] = value
end
for number = 1, math.min(look, #ended) do
  local id, at = ended[number][1], ended[number][2]
  local v = redis.call('HMGET', k_job(id), 'error', 'model', 'target')
  if v[1] then
    looked = looked + 1
    local err = cjson.decode(v[1])
    local code = err.code or ''
    local group = groups[code]
    if not group then
      group = {count = 0, last = at, message = err.message or '', ids = {}, models = {}, targets = {}}
      groups[code] = group
      order[#order + 1] = code
    end
    group.count = group.count + 1
    add(group.ids, id)
    add(group.models, v[2])
    add(group.targets, v[3])
  end
end

local reply = {looked, tonumber(redis.call('HGET', k_totals(), 'failed') or '0')}
for _, code in ipairs(order) do
  local g = groups[code]
  reply[#reply + 1] = {
    code, g.count, g.last, g.message, table.concat(g.ids, '\n'), table.concat(g.models, '\n'), table.concat(g.targets, '\n'),
  }
end
return reply
