-- One commit: blocks of several streams, each fenced by its epoch. Gives {place in KEYS, why, number} of those refused.
-- KEYS: each stream's hash. ARGV: prefix, retention in ms, a name of this commit that its repetition has too, then an
-- append for each key, as valkey_message.py writes it.
local prefix, retention, commit = ARGV[1], ARGV[2], ARGV[3]
local AT_ONCE = 1000  -- values that `unpack` puts on Lua's stack, which holds 8000
local refused, grown = {}, 0

local function finish(id, stream, size)
  local claim = redis.call('HGET', stream, 'claim')
  for _, key in ipairs({stream, stream .. ':blocks', stream .. ':notes'}) do redis.call('PEXPIRE', key, retention) end
  if claim ~= '' then redis.call('PEXPIRE', prefix .. 'claim:' .. claim, retention) end
  redis.call('ZREM', prefix .. 'live', id)
  grown = grown - size
end

local function annotate(stream, note, account)
  if note ~= '' then redis.call('APPEND', stream .. ':notes', note) end
  if account ~= '' then redis.call('HSET', stream, 'account', account) end
end

for place, stream in ipairs(KEYS) do
  local message = ARGV[place + 3]
  local epoch, first, ends, count, note_size, account_size, at = struct.unpack('>I4I4BI4I4I4', message)
  local held = redis.call('HMGET', stream, 'epoch', 'last', 'ended', 'size')
  local last = tonumber(held[2])
  local final = first + count - 1
  if not last then
    refused[#refused + 1] = {place, 'unknown', 0}
  elseif tonumber(held[1]) ~= epoch then
    refused[#refused + 1] = {place, 'stale', tonumber(held[1])}
  elseif first <= last and final <= last then
    -- It is here already: the answer to this commit was lost, and it is repeated.
  elseif held[3] == '1' then
    refused[#refused + 1] = {place, 'ended', last}
  elseif first ~= last + 1 then
    refused[#refused + 1] = {place, 'gap', last}
  elseif count == 0 then
    -- Its offset does not tell whether it is here already, so the name of the commit has to.
    if redis.call('HGET', stream, 'noted') ~= commit then
      redis.call('HSET', stream, 'noted', commit, 'size', tonumber(held[4]) + note_size)
      annotate(stream, message:sub(at, at + note_size - 1), message:sub(at + note_size))
      grown = grown + note_size
    end
  else
    local blocks, added = {}, note_size
    for n = 1, count do
      blocks[n], at = struct.unpack('>I4c0', message, at)
      added = added + #blocks[n]
    end
    -- The first write is one that a full or read-only server refuses: then nothing of the commit is written.
    for n = 1, count, AT_ONCE do
      redis.call('RPUSH', stream .. ':blocks', unpack(blocks, n, math.min(count, n + AT_ONCE - 1)))
    end
    local size = tonumber(held[4]) + added
    redis.call('HSET', stream, 'last', final, 'size', size, 'ended', ends)
    if note_size + account_size > 0 then
      annotate(stream, message:sub(at, at + note_size - 1), message:sub(at + note_size))
    end
    grown = grown + added
    if ends == 1 then finish(stream:sub(#prefix + 2, -2), stream, size) end
    redis.call('PUBLISH', stream, message:sub(1, at - 1))
  end
end
if grown ~= 0 then redis.call('INCRBY', prefix .. 'live-bytes', grown) end
return refused
