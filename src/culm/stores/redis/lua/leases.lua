-- Leases. `held` says under which lease a job is, and in which queue. What a claim was granted in one queue is one entry:
-- `u:` when it may first be overdue, `l:` the ids that were granted, `k:` how many of them it still holds. So a claim and an end cost
-- a few words, however many jobs there are. `x:` holds the own ends of jobs whose lease was extended.
local function holder(mark, lease, queue)
    return mark .. lease .. '\n' .. queue
end

local function lease_in(held)
    return (string.match(held, '^.([^\n]*)'))
end

local function queue_in(held)
    return (string.match(held, '\n(.*)$'))
end

-- A claim was granted ids[from..to]. -> these, a line each
local function hold(lease, queue, ids, from, to, until_ms)
    local before, lines = call('HGET', P .. 'l:' .. queue, lease), table.concat(ids, '\n', from, to)
    call('HSET', P .. 'l:' .. queue, lease, before and before .. '\n' .. lines or lines)
    call('HINCRBY', P .. 'k:' .. queue, lease, to - from + 1)
    call('ZADD', P .. 'u:' .. queue, until_ms, lease)
    return lines
end

local function forget_lease(lease, queue)
    call('HDEL', P .. 'k:' .. queue, lease)
    call('HDEL', P .. 'l:' .. queue, lease)
    call('ZREM', P .. 'u:' .. queue, lease)
end

-- `count` jobs left their lease; those in list[from..to] may have had an end of their own.
local function forget_held(lease, queue, count, list, from, to)
    local own = P .. 'x:' .. queue
    if call('EXISTS', own) == 1 then
        many('HDEL', own, list, from, to)
    end
    if call('HINCRBY', P .. 'k:' .. queue, lease, -count) <= 0 then
        forget_lease(lease, queue)
    end
end

-- The ids that an entry still holds.
local function still_held(lease, queue)
    local ids, found = {}, {}
    for id in string.gmatch(call('HGET', P .. 'l:' .. queue, lease) or '', '[^\n]+') do
        ids[#ids + 1] = id
    end
    for i, held in ipairs(ask('HMGET', HELD, ids, 1, #ids)) do
        if held and lease_in(held) == lease then
            found[#found + 1] = ids[i]
        end
    end
    return found
end

-- Some of an entry's jobs end at until_ms, which may be sooner than the rest: then the rest get ends of their own.
local function ends_sooner(lease, queue, until_ms)
    local bound, own = call('ZSCORE', P .. 'u:' .. queue, lease), P .. 'x:' .. queue
    if not bound or tonumber(bound) <= until_ms then
        return
    end
    for _, id in ipairs(still_held(lease, queue)) do
        call('HSETNX', own, id, bound)
    end
    call('ZADD', P .. 'u:' .. queue, until_ms, lease)
end
