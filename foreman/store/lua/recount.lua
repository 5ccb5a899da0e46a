-- Count the payload anew, which should change nothing.
-- KEYS[1] the pool's prefix
-- ARGV    1 entries of ended jobs from which on it is left, since it would hold up everybody
-- returns {bytes as they were counted, bytes as they are}, or false where there is too much
-- include: clock, payload
local most, now = tonumber(ARGV[1]), clock()
payload_trim(now, PAYLOADS)
local counted = tonumber(redis.call('HGET', k_payload(), 'bytes') or '0')
local entries = redis.call('ZCARD', k_deliveries())
for _, surface in ipairs({'sync', 'async'}) do entries = entries + redis.call('ZCARD', k_payloads(surface)) end
if entries > most then return false end
return {counted, payload_recount()}
