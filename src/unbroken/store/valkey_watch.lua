-- Moves on the time until which a reader is there; never back.
-- KEYS: the stream's hash. ARGV: seconds since 1970.
local watched = redis.call('HGET', KEYS[1], 'watched')
if watched and tonumber(ARGV[1]) > tonumber(watched) then redis.call('HSET', KEYS[1], 'watched', ARGV[1]) end
return 0
