-- A run's log from a given place on: how many entries are gone, how many there were ever, the last one, the entries.
-- KEYS: the log; how many of its entries are gone. ARGV: place.
local gone = tonumber(redis.call('HGET', KEYS[2], 'gone') or '0')
local from = math.max(tonumber(ARGV[1]) - gone, 0)
local left = redis.call('LLEN', KEYS[1])
return { gone, gone + left, redis.call('LINDEX', KEYS[1], -1), redis.call('LRANGE', KEYS[1], from, -1) }
