-- Keep a delivery's body, so that every attempt sends the same bytes. The first one kept stands; a resend has one attempt
-- only, and keeps none.
-- KEYS[1] the pool's prefix
-- ARGV    1 delivery  2 ticket  3 body
-- returns the body that stands, or false where the attempt is not this ticket's any more
-- include: clock, outbox
local evt, ticket, body = ARGV[1], ARGV[2], ARGV[3]
local d = delivery_read(evt)
if not d or d.inflight ~= ticket then return false end
if d.ending then return body end
if redis.call('SETNX', k_delivery_body(evt), body) == 1 then
  payload_add(string.len(body))
  payload_fits(0, clock())
end
return redis.call('GET', k_delivery_body(evt))
