-- What only few claims need; claim.lua is around it.
local MOST_LEASES = 200 -- that ran out, of one queue
ledger = ARGV[6] == '1'

local function add_special(row, place)
    local at = #special
    special[at + 1], special[at + 2], special[at + 3] = place, row.attempt, row.expiries
    special[at + 4], special[at + 5] = row.fence, string.format('%.0f', row.sent)
end

local function add(row)
    took = took + 1
    taken[took] = row.id
    add_special(row, took)
end

-- What the lease holds: its reply was lost.
local function repeated()
    for i = 7, #ARGV do
        for _, id in ipairs(still_held(lease, ARGV[i])) do
            add(row_of(id))
        end
    end
    return answer('0')
end

local function sooner(a, b)
    return a[1] < b[1] or a[1] == b[1] and a[2] < b[2]
end

-- Of a lease that may be overdue: add to `found` what is, of it only what was asked to stop when there is enough.
-- -> when the first of the others will be; whether something overdue is left
local function overdue_under(entry, found, enough)
    local ids, rest, left = still_held(entry.lease, entry.queue), INF, false
    local states = call('EXISTS', STATE) == 1 and ask('HMGET', STATE, ids, 1, #ids)
    for i, own in ipairs(ask('HMGET', P .. 'x:' .. entry.queue, ids, 1, #ids)) do
        local ends, asked = own and tonumber(own) or entry.bound, states and states[i] and is_cancelled(states[i])
        if ends > now then
            rest = math.min(rest, ends)
        elseif enough and not asked then
            left = true
        else
            found[#found + 1] = { ends, row_of(ids[i]).n, ids[i], entry, asked }
        end
    end
    return rest, left
end

-- How many of them a claim would take before all that end at that moment.
local function ended_before(found, moment)
    local n = 0
    for _, one in ipairs(found) do
        n = n + ((one[1] < moment and not one[5]) and 1 or 0)
    end
    return n
end

-- What may be overdue, by when.
local function lapsed(queues)
    local entries = {}
    for _, queue in ipairs(queues) do
        local some = call('ZRANGEBYSCORE', P .. 'u:' .. queue, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, MOST_LEASES)
        for i = 1, #some, 2 do
            entries[#entries + 1] = { lease = some[i], queue = queue, bound = tonumber(some[i + 1]) }
        end
    end
    table.sort(entries, function(a, b)
        return a.bound < b.bound
    end)
    return entries
end

local function fits(id)
    size = size + (call('HGET', LARGE, id) or 0)
    full = size > MOST_BYTES and took > 0
    return not full
end

-- Jobs whose lease ran out, the earliest first; whoever was asked to stop is stopped now.
local function overdue(queues)
    local found, entries, mine, enough, asked = {}, lapsed(queues), {}, false, call('EXISTS', STATE) == 1
    for _, entry in ipairs(entries) do
        enough = enough or #found >= limit and ended_before(found, entry.bound) >= limit
        if enough and not asked then -- nobody was asked to stop
            entry.rest, entry.left = INF, true
        else
            entry.rest, entry.left = overdue_under(entry, found, enough)
        end
    end
    table.sort(found, sooner)
    for _, one in ipairs(found) do
        local row, entry = row_of(one[3]), one[4] -- anew: the end of one may have released another
        if row.cancelled == 1 then
            let_go(row)
            finish(row, 3, CANCELLED, row.keep, entry.lease)
        elseif took < limit and not full and fits(row.id) then
            let_go(row)
            row.expiries, row.fence, row.special = row.expiries + 1, row.fence + 1, true
            save(row)
            call('HSET', HELD, row.id, holder('*', lease, row.queue))
            mine[row.queue] = mine[row.queue] or {}
            table.insert(mine[row.queue], row.id)
            add(row)
        else
            entry.left = true
        end
    end
    for _, entry in ipairs(entries) do
        if not entry.left and call('ZSCORE', P .. 'u:' .. entry.queue, entry.lease) then
            if entry.rest < INF then
                call('ZADD', P .. 'u:' .. entry.queue, entry.rest, entry.lease)
            else
                forget_lease(entry.lease, entry.queue)
            end
        end
    end
    for queue, ids in pairs(mine) do
        hold(queue, ids, 1, #ids)
    end
end

-- Of what a claim was granted last: jobs that have a state, claimed before, or in a scope, or released.
local function grant_special(ids, queue, from, to, held)
    for i, state in ipairs(ask('HMGET', STATE, ids, from, to)) do
        if state then
            local row = { id = ids[from + i - 1] }
            read_state(row, state)
            row.attempt, row.fence = row.attempt + 1, row.fence + 1
            save(row)
            add_special(row, took - (to - from + 1) + i)
            held[2 * i + 2] = holder('*', lease, queue)
        end
    end
end

-- What is due in a lane, for `sooner`: due, `n`, id, lane, bundles.
local function add_due(all, lane, want)
    local due = call('ZRANGEBYSCORE', P .. 'q:' .. lane, '-inf', NOW, 'WITHSCORES', 'LIMIT', 0, want)
    for i = 1, #due, 2 do
        all[#all + 1] = { tonumber(due[i + 1]), string.sub(due[i], 1, 16), string.sub(due[i], 17), lane }
    end
    local found = bundled and bundles_in(lane, want, NOW)
    if found then
        each_bundled(found, function(at, n, id)
            all[#all + 1] = { at, n, id, lane, found }
        end)
    end
end

-- The oldest due of several lanes.
local function take_from_several(lanes, want)
    local all, ids, from = {}, {}, {}
    for _, lane in ipairs(lanes) do
        add_due(all, lane, want)
    end
    table.sort(all, sooner)
    for i = 1, math.min(want, #all) do
        ids[i] = all[i][3]
    end
    local count, start = carried(ids, #ids), 1
    for i = 1, count do
        local lane, following = all[i][4], i < count and all[i + 1][4]
        local lies_in = all[i][5] or lane
        from[lies_in] = (from[lies_in] or 0) + 1
        if not following or string.sub(following, 2) ~= string.sub(lane, 2) then -- a run of one queue
            grant(ids, string.sub(lane, 2), start, i)
            start = i + 1
        end
    end
    for lies_in, so_many in pairs(from) do
        if type(lies_in) == 'table' then
            take_bundles(lies_in, so_many)
        else
            call('ZREMRANGEBYRANK', P .. 'q:' .. lies_in, 0, so_many - 1)
        end
    end
end

return { repeated = repeated, overdue = overdue, grant_special = grant_special, take_from_several = take_from_several, ring_told = ring_told }
