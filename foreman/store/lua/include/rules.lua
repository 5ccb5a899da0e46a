-- The first five arguments of every script that moves jobs: the table, the limits, the words of a poisoned job.
local EDGES, MAX_ATTEMPTS, SYNC_MS, ASYNC_MS, POISON =
  ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]

local function legal(from, to)
  return string.find(EDGES, ' ' .. from .. '>' .. to .. ' ', 1, true) ~= nil
end
