-- Keeps a conversation's head; its items stay.
-- KEYS: the conversation. ARGV: idle time in ms, the head's bytes.
redis.call('HSET', KEYS[1], 'head', ARGV[2])
return redis.call('PEXPIRE', KEYS[1], ARGV[1])
