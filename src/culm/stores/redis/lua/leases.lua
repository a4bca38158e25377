-- Leases. `held` says under which lease a job is, and in which queue. What a claim was granted in one queue is one entry:
-- `u:` when it may first be overdue, `l:` the ids that were granted, `k:` how many of them it still holds. So a claim and an end cost
-- a few words, however many jobs there are. `x:` holds the own ends of jobs whose lease was extended.
local function holder(mark, lease, queue)
    return mark .. lease .. '\n' .. queue
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
