-- Renews the lease of an owner; gives the streams of its that others have claimed, until it has said that it was told.
-- KEYS: the leases, the owner's lost streams. ARGV: owner, lease in ms, then the ids that it was told of.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms)  -- first: then a full server takes the lease too
redis.call('ZADD', KEYS[1], now_ms + tonumber(ARGV[2]), ARGV[1])
for n = 3, #ARGV do redis.call('SREM', KEYS[2], ARGV[n]) end
return redis.call('SMEMBERS', KEYS[2])
