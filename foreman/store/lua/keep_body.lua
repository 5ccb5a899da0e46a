-- Keep a delivery's body, so that every attempt sends the same bytes. The first one kept stands.
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 body
-- returns the body that stands, or false where the attempt is not this ticket's any more
-- include: outbox
local evt, ticket, body = ARGV[1], ARGV[2], ARGV[3]
local d = delivery_read(evt)
if not d or d.inflight ~= ticket then return false end
redis.call('SETNX', k_delivery_body(evt), body)
return redis.call('GET', k_delivery_body(evt))
