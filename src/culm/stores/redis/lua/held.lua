-- Who holds what, job by job: `held` as its readers need it.
local function lease_in(held)
    return (string.match(held, '^.([^\n]*)'))
end

local function queue_in(held)
    return (string.match(held, '\n(.*)$'))
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
