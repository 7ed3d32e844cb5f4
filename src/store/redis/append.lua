-- Adds items at a conversation's end; an item that is there already keeps its place. 0: no such conversation.
-- KEYS: the conversation. ARGV: idle time in ms, then field and bytes of each item.
if redis.call('HEXISTS', KEYS[1], 'head') == 0 then return 0 end
for i = 2, #ARGV, 2 do
  local old = redis.call('HGET', KEYS[1], ARGV[i])
  local place = old and string.match(old, '^%d+') or redis.call('HINCRBY', KEYS[1], 'next', 1)
  redis.call('HSET', KEYS[1], ARGV[i], place .. ':' .. ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 1
