-- Gives for each stream {record, epoch, last, ended, owned, account, watched}, or {} where there is none.
-- KEYS: each stream's hash. ARGV: prefix.
local now = redis.call('TIME')
local now_ms = now[1] * 1000 + math.floor(now[2] / 1000)
local found = {}
for place, stream in ipairs(KEYS) do
  local held = redis.call('HMGET', stream, 'record', 'epoch', 'last', 'ended', 'owner', 'account', 'watched')
  if held[1] then
    local lease = redis.call('ZSCORE', ARGV[1] .. 'owners', held[5])
    held[5] = (lease and tonumber(lease) > now_ms) and '1' or '0'
    found[place] = held
  else
    found[place] = {}
  end
end
return found
