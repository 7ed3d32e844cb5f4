-- Adds entries to a run's log from a given place on, each once: those that an earlier attempt has brought there are left
-- out. Beyond the bytes that a log may have, its oldest entries go. 0: the log has another length, so that something
-- before them is lost.
-- KEYS: the log; how many of its entries are gone, and the bytes of the others. ARGV: time to keep in ms, place, most
-- bytes, the place before which the run itself has lost its entries, entries.
local gone = tonumber(redis.call('HGET', KEYS[2], 'gone') or '0')
local bytes = tonumber(redis.call('HGET', KEYS[2], 'bytes') or '0')
local left = redis.call('LLEN', KEYS[1])
local there = gone + left - tonumber(ARGV[2])
if there > #ARGV - 4 then return 0 end
if there < 0 then
  if tonumber(ARGV[4]) < tonumber(ARGV[2]) then return 0 end
  redis.call('DEL', KEYS[1])
  gone, bytes, left, there = tonumber(ARGV[2]), 0, 0, 0
end
for i = 5 + there, #ARGV do
  left = redis.call('RPUSH', KEYS[1], ARGV[i])
  bytes = bytes + #ARGV[i]
end
while bytes > tonumber(ARGV[3]) and left > 1 do
  bytes = bytes - #redis.call('LPOP', KEYS[1])
  gone, left = gone + 1, left - 1
end
redis.call('HSET', KEYS[2], 'gone', gone, 'bytes', bytes)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
