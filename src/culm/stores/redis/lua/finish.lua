-- A batch of plain ends, in columns. Plain: held under the client's lease, first attempt, no entry in `state`.
-- ARGV: now, client, number, ledger, jobs in all, how many messages, these (channel, message), then group by group: lease, queue, for how
-- long they are kept ('0': nothing is, '': dead letters), how many, ids; and if they are kept: what `outcomes` will hold
-- -> the answers, a letter each; or 0: one was not as expected, nothing was written
local client, total = P .. 'b:' .. ARGV[2], tonumber(ARGV[5])
local known = call('GET', client)
local last = known and string.match(known, '^%d+')
if known and tonumber(ARGV[3]) <= tonumber(last) then
    return ARGV[3] == last and string.sub(known, #last + 2) or string.rep('l', total)
end

-- All that the lease was granted in this queue, and nothing of it is special. From a few on that costs less than to look at each.
local function is_whole(group)
    if group.n <= 2 or call('HGET', P .. 'k:' .. group.queue, group.lease) ~= ARGV[group.first - 1] or call('EXISTS', STATE) == 1 then
        return false
    end
    group.ids = table.concat(ARGV, '\n', group.first, group.last)
    return call('HGET', P .. 'l:' .. group.queue, group.lease) == group.ids
end

local groups, groups_from = {}, 7 + 2 * ARGV[6]
local at = groups_from
while at <= #ARGV do
    local n = tonumber(ARGV[at + 3])
    local group = { lease = ARGV[at], queue = ARGV[at + 1], for_ms = ARGV[at + 2], n = n, first = at + 4, last = at + 3 + n }
    if not is_whole(group) then
        local plain = holder('.', group.lease, group.queue)
        for _, held in ipairs(ask('HMGET', HELD, ARGV, group.first, group.last)) do
            if held ~= plain then
                return 0
            end
        end
    end
    groups[#groups + 1] = group
    at = group.last + 1 + (group.for_ms == '0' and 0 or n)
end
-- Every check is done. What frees memory comes first, so that a full server can still be drained.

local function keep(group)
    local outcomes, o, n, dead, d = { LISTLESS, ROOMY }, 2, group.n, {}, 0
    for i = group.first, group.last do
        outcomes[o + 1], outcomes[o + 2], o = ARGV[i], ARGV[i + n], o + 2
    end
    if group.for_ms == '' then
        local died = ' ' .. NOW .. '\n' -- the client cannot say when
        for i = 1, n do
            outcomes[2 * i + 2] = string.gsub(outcomes[2 * i + 2], '\n', died, 1)
            dead[d + 1], dead[d + 2], d = '0', outcomes[2 * i + 1], d + 2
        end
        many('ZADD', DEAD, dead, 1, d)
    else
        for from = group.first, group.last, TOGETHER do
            local all = group.n <= TOGETHER and group.ids
            call('ZADD', EXPIRE, now + group.for_ms, all or table.concat(ARGV, '\n', from, math.min(from + TOGETHER - 1, group.last)))
        end
    end
    many('HSET', OUTCOMES, outcomes, 1, o)
end

local function tell_of(group)
    for i, channels in ipairs(ask('HMGET', WAITS, ARGV, group.first, group.last)) do
        local at_id = group.first + i - 1
        tell(ARGV[at_id], channels, group.for_ms == '0' and '' or ARGV[at_id + group.n])
    end
end

for _, group in ipairs(groups) do
    many('HDEL', HELD, ARGV, group.first, group.last)
    forget_held(group.lease, group.queue, group.n, ARGV, group.first, group.last)
    if group.for_ms == '0' then
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
for i = 7, groups_from - 1, 2 do
    call('PUBLISH', P .. ARGV[i], ARGV[i + 1])
end
local answers = string.rep('a', total)
call('SET', client, ARGV[3] .. ' ' .. answers, 'PX', ANSWERS_MS)
return answers
