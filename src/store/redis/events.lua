-- Adds entries to a run's log from a given place on, each once: those that an earlier attempt has brought there are left
-- out. 0: the log has another length, so that something before them is lost.
-- KEYS: the log. ARGV: time to keep in ms, place, entries.
local length = redis.call('LLEN', KEYS[1])
local there = length - tonumber(ARGV[2])
if there < 0 or there > #ARGV - 2 then return 0 end
for i = 3 + there, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
