-- Take the head of a lane for a worker that owns the target: state, epoch + 1, event, the worker's own list.
-- KEYS[1] the pool's prefix
-- ARGV    1–5 rules  6 slot  7 lane  8 target  9 worker  10 target epoch  11 state to take it in (loading, working)
--         12 error of a job past its deadline, JSON  13 cursor of the last look at the lanes, or '-' for no look
-- returns {{now ms, id, request, {record, flat}} or 0 when nothing is to be had, changes where they were asked for},
--         'fenced' when the target is another's
-- include: claiming, surveying
local slot, lane, target, worker, own_epoch, to, late = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12]
local cursor = ARGV[13]
local now = clock()

if not owns(target, worker, own_epoch, now) then return 'fenced' end
local taken = not held_back(slot, lane, target, now) and claim_head(slot, lane, target, worker, to, now, late)
if cursor == '-' then return {taken or 0} end
return {taken or 0, changes(slot, now, cursor)}
