-- Removes streams. With an owner only its own: those that are as they were created; others are left to whoever wants them.
-- KEYS: each stream's hash. ARGV: prefix, owner or ''.
local prefix, owner = ARGV[1], ARGV[2]

local function remove(id, stream, held)
  redis.call('DEL', stream, stream .. ':blocks', stream .. ':notes')  -- first: a full server refuses what does not free
  redis.call('ZREM', prefix .. 'live', id)
  local claim_key = prefix .. 'claim:' .. held[5]
  if held[5] ~= '' and redis.call('GET', claim_key) == id then redis.call('DEL', claim_key) end
  if held[4] ~= '1' then redis.call('DECRBY', prefix .. 'live-bytes', held[6]) end
end

for _, stream in ipairs(KEYS) do
  local held = redis.call('HMGET', stream, 'owner', 'epoch', 'last', 'ended', 'claim', 'size')
  if held[1] and (owner == '' or (held[1] == owner and held[2] == '1' and held[3] == '0')) then
    remove(stream:sub(#prefix + 2, -2), stream, held)
  elseif held[1] and held[1] == owner then
    redis.call('HSET', stream, 'owner', '')
  end
end
return 0
