-- The lanes of the drain that changed since the last look: advice for a choice, never a gate.
-- KEYS[1] the pool's prefix
-- ARGV    1 slot  2 cursor, or ''
-- returns see `changes` in surveying
-- include: clock, surveying
return changes(ARGV[1], clock(), ARGV[2])
