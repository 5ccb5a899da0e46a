-- The lanes of a slot that have queued jobs: advice for a choice, never a gate.
-- KEYS[1] the pool's prefix
-- ARGV    1 slot
-- returns {now ms, {lane, head id, head due ms, head class, head created ms, its only target or '', facts flat…}, …}
-- include: clock, surveying
return survey(ARGV[1], clock())
