-- One more reader of a sync job's answer: noted in its record, for whoever claims it next, and told to the worker that runs
-- it now. The same reader again is told again.
-- KEYS[1] the pool's prefix
-- ARGV    1 id  2 gateway  3 reader, the id by which the gateway knows it  4 readers at most
-- returns the state it is in now, false where it is unknown, 'full' where it has as many readers as it may
-- include: message
local id, gateway, reader, most = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local v = redis.call('HMGET', k_job(id), 'state', 'readers', 'worker', 'target', 'epoch')
local state, readers, worker, target, epoch = v[1], v[2] or '', v[3], v[4], v[5]
if not state or state == 'done' or state == 'failed' or state == 'cancelled' then return state end

local line = gateway .. ' ' .. reader
if not string.find('\n' .. readers .. '\n', '\n' .. line .. '\n', 1, true) then
  if select(2, string.gsub(readers, '%S+ %S+', '')) >= most then return 'full' end
  redis.call('HSET', k_job(id), 'readers', readers == '' and line or readers .. '\n' .. line)
end
if state ~= 'queued' and worker then
  post('worker', worker, {verb = 'attach', job_id = id, epoch = tonumber(epoch), target = target, gateway = gateway, reader = reader})
end
return state
