-- A batch of plain ends, in columns. Plain: held under the client's lease, first attempt, no entry in `state`.
-- ARGV: now, client, number, ledger, jobs (n), leases (as in `held`: n), ids (n), then queue by queue: queue, how many, their members
-- of `u:`; how many queues precedes. Then how many records go, their keys; how many outcomes stay, pairs (key, value); how many of
-- these expire, pairs (keep, id); how many dead letters, their ids.
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local client, n = P .. 'b:' .. ARGV[2], tonumber(ARGV[5])
local known = call('GET', client)
local last, answered = string.match(known or '', '^(%d+) (%a*)$')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and answered or string.rep('l', n)
end
local ids = 6 + n
for i, lease in ipairs(ask('HMGET', HELD, ARGV, ids, ids + n - 1)) do
    if lease ~= ARGV[5 + i] then
        return 0
    end
end
-- Every check is done. What frees memory comes first, so that a full server can still be drained.
many('HDEL', HELD, ARGV, ids, ids + n - 1)
local at = ids + n

local function count()
    at = at + 1
    return tonumber(ARGV[at - 1])
end

for _ = 1, count() do
    local queue = ARGV[at]
    at = at + 1
    local members = count()
    many('ZREM', P .. 'u:' .. queue, ARGV, at, at + members - 1)
    at = at + members
end
local gone = count()
for i = at, at + gone - 1, CHUNK do
    call('UNLINK', unpack(ARGV, i, math.min(i + CHUNK - 1, at + gone - 1)))
end
at = at + gone
local kept, values = count(), at
for i = at, at + 2 * kept - 1, CHUNK do
    call('MSET', unpack(ARGV, i, math.min(i + CHUNK - 1, at + 2 * kept - 1)))
end
at = at + 2 * kept
local expiring = count()
local pairs_ = {}
for i = 0, 2 * expiring - 1, 2 do
    pairs_[i + 1], pairs_[i + 2] = now + ARGV[at + i], ARGV[at + i + 1]
end
many('ZADD', EXPIRE, pairs_, 1, 2 * expiring)
at = at + 2 * expiring
local dead = count()
many('SADD', DEAD, ARGV, at, at + dead - 1)
if ARGV[4] == '1' then
    for i = 0, n - 1 do
        call('RPUSH', P .. 'ledger', ARGV[ids + i] .. '\n' .. string.sub(ARGV[6 + i], 2))
    end
end
if somebody_waits() then
    local outcomes = {}
    for i = values, values + 2 * kept - 1, 2 do
        outcomes[ARGV[i]] = ARGV[i + 1]
    end
    for i, channels in ipairs(ask('HMGET', WAITS, ARGV, ids, ids + n - 1)) do
        local id = ARGV[ids + i - 1]
        tell(id, channels, outcomes[P .. 'o:' .. id] or '')
    end
    publish_told()
end
local answers = string.rep('a', n)
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
