-- Gives up a stream that is ours with this epoch.
-- KEYS: the stream's hash. ARGV: owner, epoch.
local held = redis.call('HMGET', KEYS[1], 'owner', 'epoch')
if held[1] == ARGV[1] and held[2] == ARGV[2] then redis.call('HSET', KEYS[1], 'owner', '') end
return 0
