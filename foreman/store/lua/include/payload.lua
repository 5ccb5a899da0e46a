-- Payload: the bytes that callers sent and targets answered. Requests, kept answers and the bodies of open deliveries are
-- counted by the step that writes or removes them; what an ended job still has stands in a list by surface until it is
-- gone, so that what a TTL removes is counted too. Full (FOREMAN_STORE_BYTES): the oldest ended ones lose theirs.
local PAYLOADS = 500 -- ended jobs that one step looks at, per surface
local PAYLOADS_MS = 345600000 -- the lists outlive their last entry by 4 days

local function payload_add(bytes)
  if bytes ~= 0 then redis.call('HINCRBY', k_payload(), 'bytes', bytes) end
end

local function payload_keys(id) return {k_request(id), k_artifact(id, 'completion'), k_artifact(id, 'stream')} end

local function payload_size(id)
  local size = 0
  for _, key in ipairs(payload_keys(id)) do size = size + redis.call('STRLEN', key) end
  return size
end

local function payload_entry(id, size, ended) return id .. ' ' .. size .. ' ' .. ended end

local function payload_read(entry)
  local id, size, ended = string.match(entry, '^(%S+) (%d+) (%d+)$')
  return id, tonumber(size), tonumber(ended)
end

-- What an ended job has is kept until `till` (ms).
local function payload_keep(surface, id, ended, till)
  local size = payload_size(id)
  if size == 0 then return end
  redis.call('ZADD', k_payloads(surface), till, payload_entry(id, size, ended))
  redis.call('PEXPIRE', k_payloads(surface), till - ended + PAYLOADS_MS)
end

local function payload_drop(surface, id, ended)
  local size = payload_size(id)
  redis.call('DEL', unpack(payload_keys(id)))
  if redis.call('ZREM', k_payloads(surface), payload_entry(id, size, ended)) == 1 then payload_add(-size) end
end

-- What TTLs have removed; a job that is kept for its webhooks is looked at again a minute later.
local function payload_trim(now, limit)
  for _, surface in ipairs({'sync', 'async'}) do
    local key = k_payloads(surface)
    for _, entry in ipairs(redis.call('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, limit)) do
      local id, size = payload_read(entry)
      if payload_size(id) > 0 then
        redis.call('ZADD', key, now + 60000, entry)
      else
        redis.call('ZREM', key, entry)
        payload_add(-size)
      end
    end
  end
end

-- Counted anew, from what is there.
local function payload_recount()
  local bytes = 0
  local function living(list)
    for _, id in ipairs(redis.call('ZRANGE', list, 0, -1)) do bytes = bytes + redis.call('STRLEN', k_request(id)) end
  end
  for _, slot in ipairs({'drain', 'embed', 'side'}) do
    living(k_queued(slot))
    living(k_delayed(slot))
  end
  living(k_running('loading'))
  living(k_running('working'))
  for _, surface in ipairs({'sync', 'async'}) do
    for _, entry in ipairs(redis.call('ZRANGE', k_payloads(surface), 0, -1)) do
      local _, size = payload_read(entry)
      bytes = bytes + size
    end
  end
  for _, evt in ipairs(redis.call('ZRANGE', k_deliveries(), 0, -1)) do
    bytes = bytes + redis.call('STRLEN', k_delivery_body(evt))
  end
  redis.call('HSET', k_payload(), 'bytes', bytes)
  return bytes
end

-- Where an ended job's Idempotency-Key stands; nil where it has none, or another job has it by now.
local function own_key(id)
  local named = redis.call('HGET', k_job(id), 'idempotency')
  if named and string.find(redis.call('GET', k_idempotency(named)) or '', id, 1, true) == 1 then return k_idempotency(named) end
  return nil
end

-- Take it from the oldest ended jobs until no more than `most` bytes are left; first from those whose webhooks have all
-- been told. Returns the bytes that are left.
local function payload_evict(bytes, most)
  local lines, firsts = {}, {}
  for _, surface in ipairs({'sync', 'async'}) do lines[surface] = redis.call('ZRANGE', k_payloads(surface), 0, PAYLOADS - 1) end
  for pass = 1, 2 do
    firsts.sync, firsts.async = 1, 1
    while bytes > most do
      local surface, id, size, ended
      for _, one in ipairs({'sync', 'async'}) do
        while lines[one][firsts[one]] == false do firsts[one] = firsts[one] + 1 end
        local entry = lines[one][firsts[one]]
        if entry then
          local i, s, e = payload_read(entry)
          if not ended or e < ended then surface, id, size, ended = one, i, s, e end
        end
      end
      if not surface then break end
      local entry = lines[surface][firsts[surface]]
      if pass == 2 or redis.call('ZCARD', k_outbox(id)) == 0 then
        redis.call('DEL', unpack(payload_keys(id)))
        local key = surface == 'sync' and own_key(id)
        if key then redis.call('DEL', key) end -- it is free: there is no answer to give again
        redis.call('ZREM', k_payloads(surface), entry)
        payload_add(-size)
        bytes = bytes - size
        lines[surface][firsts[surface]] = false
      end
      firsts[surface] = firsts[surface] + 1
    end
  end
  return bytes
end

-- Whether so many more bytes fit; makes room for them. Without a limit (nobody has submitted yet) they do.
local function payload_fits(more, now)
  local v = redis.call('HMGET', k_payload(), 'bytes', 'limit')
  local bytes, limit = tonumber(v[1] or '0'), tonumber(v[2] or '')
  if not limit or bytes + more <= limit then return true end
  if more > limit then return false end
  payload_trim(now, PAYLOADS)
  bytes = payload_evict(tonumber(redis.call('HGET', k_payload(), 'bytes')), limit - more)
  if bytes + more > limit and redis.call('ZCARD', k_payloads('sync')) + redis.call('ZCARD', k_payloads('async')) == 0 then
    bytes = payload_recount()
  end
  return bytes + more <= limit
end
