-- Adds entries to a run's log at a given place, once: entries that are there already are not added again. 0: the log has
-- another length, so that something before them is lost.
-- KEYS: the log. ARGV: time to keep in ms, place, entries.
local length = redis.call('LLEN', KEYS[1])
local place = tonumber(ARGV[2])
if length == place then
  for i = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
elseif length ~= place + #ARGV - 2 then
  return 0
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
