-- Keeps a response for its time.
-- KEYS: the response's hash. ARGV: ms that it is kept, owner, items, body.
redis.call('HSET', KEYS[1], 'owner', ARGV[2], 'items', ARGV[3], 'body', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return 0
