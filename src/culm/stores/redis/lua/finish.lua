-- A batch of plain ends, in columns. Plain: held under the client's lease, first attempt, no entry in `state`.
-- ARGV: now, client, number, ledger, jobs in all, then group by group: lease, queue, '1' if nothing of it is kept, how many, ids,
-- the `n` of each; and of those that are kept: how long ('' for a dead letter), what `o:` will hold
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local client, total = P .. 'b:' .. ARGV[2], tonumber(ARGV[5])
local known = call('GET', client)
local last, answered = string.match(known or '', '^(%d+) (%a*)$')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and answered or string.rep('l', total)
end

local groups, at = {}, 6
while at <= #ARGV do
    local group = { lease = ARGV[at], queue = ARGV[at + 1], gone = ARGV[at + 2] == '1', n = tonumber(ARGV[at + 3]), ids = at + 4 }
    local plain = '.' .. group.lease
    for _, lease in ipairs(ask('HMGET', HELD, ARGV, group.ids, group.ids + group.n - 1)) do
        if lease ~= plain then
            return 0
        end
    end
    groups[#groups + 1] = group
    at = group.ids + group.n * (group.gone and 2 or 4)
end
-- Every check is done. What frees memory comes first, so that a full server can still be drained.

local function forget(group)
    local keys, first = {}, group.ids - 1
    for i = 1, group.n do
        keys[i] = P .. 'j:' .. ARGV[first + i]
    end
    for i = 1, group.n, CHUNK do
        call('UNLINK', unpack(keys, i, math.min(i + CHUNK - 1, group.n)))
    end
end

local function keep(group)
    local first, keeps, values = group.ids - 1, group.ids - 1 + 2 * group.n, group.ids - 1 + 3 * group.n
    local outcomes, ends, e, dead = {}, {}, 0, {}
    for i = 1, group.n do
        local id, for_ms = ARGV[first + i], ARGV[keeps + i]
        outcomes[2 * i - 1], outcomes[2 * i] = P .. 'o:' .. id, ARGV[values + i]
        if for_ms == '' then
            dead[#dead + 1] = id
        else
            ends[e + 1], ends[e + 2], e = string.format('%.0f', now + for_ms), id, e + 2
        end
    end
    for i = 1, 2 * group.n, CHUNK do
        call('MSET', unpack(outcomes, i, math.min(i + CHUNK - 1, 2 * group.n)))
    end
    many('ZADD', EXPIRE, ends, 1, e)
    many('SADD', DEAD, dead, 1, #dead)
end

local function tell_of(group)
    local first, values = group.ids - 1, group.ids - 1 + 3 * group.n
    for i, channels in ipairs(ask('HMGET', WAITS, ARGV, group.ids, first + group.n)) do
        tell(ARGV[first + i], channels, group.gone and '' or ARGV[values + i])
    end
end

for _, group in ipairs(groups) do
    local first, members = group.ids - 1, {}
    for i = 1, group.n do
        members[i] = ARGV[first + group.n + i] .. ARGV[first + i]
    end
    many('HDEL', HELD, ARGV, group.ids, first + group.n)
    many('ZREM', P .. 'u:' .. group.queue, members, 1, group.n)
    if group.gone then
        forget(group)
    else
        keep(group)
    end
    if ARGV[4] == '1' then
        for i = 1, group.n do
            call('RPUSH', P .. 'ledger', ARGV[first + i] .. '\n' .. group.lease)
        end
    end
    if somebody_waits() then
        tell_of(group)
    end
end
publish_told()
local answers = string.rep('a', total)
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
