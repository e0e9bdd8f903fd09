-- Removes a response if it is this owner's; whether it was there.
-- KEYS: the response's hash. ARGV: owner.
if redis.call('HGET', KEYS[1], 'owner') ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
