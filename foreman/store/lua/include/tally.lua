-- Counts per hour, for whoever looks back; the background worker folds old hours into days (`roll_up`).
local HOUR_MS = 3600000
local HOURS_KEPT_MS = 345600000 -- 4 days, so that a background worker may be away for two
local NAMES = 500 -- different counts in an hour, whatever hosts there are; the others are `other`

-- The field that counts `what` happened to `name`: the states of jobs are few, hosts are not.
local function tally_field(key, what, name)
  local field = what .. ' ' .. name
  if string.sub(what, 1, 4) == 'job:' or redis.call('HEXISTS', key, field) == 1 or redis.call('HLEN', key) < NAMES then
    return field
  end
  return what .. ' other'
end

local function tally(now, what, name)
  local key = k_tally('h' .. math.floor(now / HOUR_MS))
  local field = tally_field(key, what, name)
  if redis.call('HINCRBY', key, field, 1) == 1 then redis.call('PEXPIRE', key, HOURS_KEPT_MS) end
end
