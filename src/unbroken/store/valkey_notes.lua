-- Gives {notes}, or {} where there is no such stream.
-- KEYS: the stream's hash.
if redis.call('EXISTS', KEYS[1]) == 0 then return {} end
return {redis.call('GET', KEYS[1] .. ':notes') or ''}
