-- What an ended delivery needs to be sent once more: its record, and the answer that stands in its bytes.
local function bytes_kept(evt, job, inline)
  local kept = cjson.decode(redis.call('HGET', k_delivery(evt), 'snapshot')).artifacts
  if not kept then return true end
  for _, artifact in ipairs(cjson.decode(kept)) do
    if artifact[3] <= inline and redis.call('EXISTS', k_artifact(job, artifact[1])) == 0 then return false end
  end
  return true
end
