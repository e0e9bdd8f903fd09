-- Gives {last, ended, {blocks behind `after`}}; {} where there is none, or where not all of it is held any more.
-- KEYS: the stream's hash. ARGV: after.
local stream, after = KEYS[1], tonumber(ARGV[1])
local held = redis.call('HMGET', stream, 'last', 'ended')
if not held[1] then return {} end
local last = tonumber(held[1])
if redis.call('LLEN', stream .. ':blocks') ~= last then return {} end
if after >= last then return {last, tonumber(held[2]), {}} end
return {last, tonumber(held[2]), redis.call('LRANGE', stream .. ':blocks', after, -1)}
