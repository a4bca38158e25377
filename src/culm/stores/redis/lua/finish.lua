-- A batch of plain ends, in columns. Plain: held under the client's lease, first attempt, no entry in `state`.
-- ARGV: now, client, number, ledger, jobs in all, how many messages, these (channel, message), then group by group: lease, queue, '1' if
-- nothing of it is kept, how many, ids; and of those that are kept: how long ('' for a dead letter), what `outcomes` will hold
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local client, total = P .. 'b:' .. ARGV[2], tonumber(ARGV[5])
local known = call('GET', client)
local last, answered = string.match(known or '', '^(%d+) (%a*)$')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and answered or string.rep('l', total)
end

local groups, first = {}, 7 + 2 * ARGV[6]
local at = first
while at <= #ARGV do
    local n = tonumber(ARGV[at + 3])
    local group = { lease = ARGV[at], queue = ARGV[at + 1], gone = ARGV[at + 2] == '1', n = n, first = at + 4, last = at + 3 + n }
    local plain = holder('.', group.lease, group.queue)
    for _, held in ipairs(ask('HMGET', HELD, ARGV, group.first, group.last)) do
        if held ~= plain then
            return 0
        end
    end
    groups[#groups + 1] = group
    at = group.last + 1 + (group.gone and 0 or 2 * n)
end
-- Every check is done. What frees memory comes first, so that a full server can still be drained.

local function keep(group)
    local outcomes, o, dead, d, keeps, values = { LISTLESS, ROOMY }, 2, {}, 0, group.n, 2 * group.n
    local died = string.format(' %.0f\n', now)
    local kept, for_so_long, ids, n = {}, nil, nil, 0 -- by how long: nearly all are kept equally long
    for i = group.first, group.last do
        local id, for_ms = ARGV[i], ARGV[i + keeps]
        outcomes[o + 1], outcomes[o + 2], o = id, ARGV[i + values], o + 2
        if for_ms == '' then -- the client cannot say when
            outcomes[o] = string.gsub(ARGV[i + values], '\n', died, 1)
            dead[d + 1], dead[d + 2], d = '0', id, d + 2
        else
            if for_ms ~= for_so_long then
                for_so_long, ids = for_ms, kept[for_ms] or {}
                kept[for_ms], n = ids, #ids
            end
            ids[n + 1], n = id, n + 1
        end
    end
    many('HSET', OUTCOMES, outcomes, 1, o)
    for for_ms, some in pairs(kept) do
        for from = 1, #some, TOGETHER do
            call('ZADD', EXPIRE, now + for_ms, table.concat(some, '\n', from, math.min(from + TOGETHER - 1, #some)))
        end
    end
    many('ZADD', DEAD, dead, 1, d)
end

local function tell_of(group)
    for i, channels in ipairs(ask('HMGET', WAITS, ARGV, group.first, group.last)) do
        local at_id = group.first + i - 1
        tell(ARGV[at_id], channels, group.gone and '' or ARGV[at_id + 2 * group.n])
    end
end

for _, group in ipairs(groups) do
    many('HDEL', HELD, ARGV, group.first, group.last)
    forget_held(group.lease, group.queue, group.n, ARGV, group.first, group.last)
    if group.gone then
        many('HDEL', JOBS, ARGV, group.first, group.last)
        if call('EXISTS', LARGE) == 1 then
            many('HDEL', LARGE, ARGV, group.first, group.last)
        end
    else
        keep(group)
    end
    if ARGV[4] == '1' then
        for i = group.first, group.last do
            call('RPUSH', P .. 'ledger', ARGV[i] .. '\n' .. group.lease)
        end
    end
    if somebody_waits() then
        tell_of(group)
    end
end
publish_told()
for i = 7, first - 1, 2 do
    call('PUBLISH', P .. ARGV[i], ARGV[i + 1])
end
local answers = string.rep('a', total)
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
