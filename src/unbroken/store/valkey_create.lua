-- Writes a new stream, owned by us. Gives {'created'}, {'full', bytes}, {'taken'}, or {'claimed', id} of who has the claim.
-- KEYS: the stream's hash. ARGV: prefix, id, owner, claim, record, most bytes of live streams.
local stream = KEYS[1]
local prefix, id, owner, claim, record, most = unpack(ARGV)
local claim_key = prefix .. 'claim:' .. claim

local found = redis.call('HMGET', stream, 'owner', 'epoch', 'last', 'record')
if found[1] == owner and found[2] == '1' and found[3] == '0' and found[4] == record then
  return {'created'}  -- by us, a moment ago: the answer was lost, and it is repeated
end
if claim ~= '' then
  local other = redis.call('GET', claim_key)
  if other and redis.call('EXISTS', prefix .. '{' .. other .. '}') == 1 then return {'claimed', other} end
end
if found[1] then return {'taken'} end
local live_bytes = tonumber(redis.call('GET', prefix .. 'live-bytes') or '0')
if live_bytes > tonumber(most) then return {'full', live_bytes} end

local now = redis.call('TIME')
redis.call('HSET', stream, 'record', record, 'epoch', 1, 'owner', owner, 'last', 0, 'ended', 0, 'size', #record,
  'claim', claim, 'account', '', 'watched', '0')
if claim ~= '' then redis.call('SET', claim_key, id) end
redis.call('ZADD', prefix .. 'live', now[1] * 1000000 + now[2], id)
redis.call('INCRBY', prefix .. 'live-bytes', #record)
return {'created'}
