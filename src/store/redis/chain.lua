-- The turns from a response back to the beginning of its conversation, the newest first: one more than `limit` at most,
-- so that the caller can tell "too long" from "whole". A list that ends at a turn with a parent has a missing link.
-- KEYS: the response's record. ARGV: idle time in ms, limit, what comes before an id in a record's name.
local found = {}
local key = KEYS[1]
while #found <= tonumber(ARGV[2]) do
  local record = redis.call('GETEX', key, 'PX', ARGV[1])
  if not record then break end
  found[#found + 1] = record
  -- version, sealed, final, length of the parent's id, the parent's id
  local length = string.byte(record, 4)
  if string.byte(record, 1) ~= 1 or not length or length == 0 then break end
  key = ARGV[3] .. string.sub(record, 5, 4 + length)
end
return found
