-- Keeps a turn. One that can be continued from is final: a replica that takes a run for dead and says "failed" must not
-- undo what the run's own replica has said by then.
-- KEYS: the record. ARGV: idle time in ms, the record's bytes.
local final = redis.call('GETRANGE', KEYS[1], 2, 2)
if final == '\1' and string.byte(ARGV[2], 3) ~= 1 then return 0 end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[1])
return 1
