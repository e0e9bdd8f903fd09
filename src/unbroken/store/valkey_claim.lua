-- Makes a stream ours. Gives {'claimed', epoch, last}, {'kept'} or {'unknown'}.
-- KEYS: the stream's hash. ARGV: prefix, id, owner, '1' for only if lapsed, '1' if we know it to be ours, ms that a loss is told.
local stream = KEYS[1]
local prefix, id, owner, only_lapsed, is_held, told_for = unpack(ARGV)
local found = redis.call('HMGET', stream, 'owner', 'epoch', 'last', 'ended')
local former = found[1]
if not former then return {'unknown'} end

if only_lapsed == '1' then
  if found[4] == '1' then return {'kept'} end
  if former == owner then
    -- Ours without our knowing: we claimed it and the answer was lost. None but us would ever take it.
    if is_held == '1' then return {'kept'} end
  else
    local now = redis.call('TIME')
    local lease = redis.call('ZSCORE', prefix .. 'owners', former)
    if lease and tonumber(lease) > now[1] * 1000 + math.floor(now[2] / 1000) then return {'kept'} end
  end
end
redis.call('HSET', stream, 'owner', owner, 'epoch', found[2] + 1)
if former ~= owner and former ~= '' then
  local lost = prefix .. 'lost:' .. former
  redis.call('SADD', lost, id)
  redis.call('PEXPIRE', lost, told_for)
end
redis.call('SREM', prefix .. 'lost:' .. owner, id)
return {'claimed', found[2] + 1, tonumber(found[3])}
